"""Ranking losses equal to sentence-transformers' where it has the same one, on the same scores."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from stoical.decoding.scores import doc_scores
from stoical.objectives.ranking.lists import Lists, make_lists
from stoical.objectives.ranking.losses import LOSSES
from tests.support.made_up import made_up_logprobs
from tests.support.packed import pack
from tests.support.random_queries import random_query

losses = pytest.importorskip(
    "sentence_transformers.cross_encoder.losses", reason="sentence-transformers is in the extra `embedders`"
)
SIZES = (6, 1, 11)


class Scores(nn.Module):
    """Stands where a cross-encoder would: its documents are their scores."""

    num_labels, device = 1, torch.device("cpu")

    def preprocess(self, pairs, prompt=None, task=None):
        return {"scores": torch.stack([document for _, document in pairs])}

    def forward(self, tokens):
        return {"scores": tokens["scores"][:, None]}


def lists(sizes=SIZES, gain="exponential", negatives=0, dtype=torch.float32) -> Lists:
    """Lists without ties, documents in rank order."""
    queries = [random_query(seed, docs, negatives=negatives) for seed, docs in enumerate(sizes, 1)]
    batch = pack(queries)
    scores = doc_scores(batch, made_up_logprobs(batch)).to(dtype)
    return make_lists(batch, (5 * scores).requires_grad_(), gain)


def theirs(loss, ours: Lists, labels: torch.Tensor) -> torch.Tensor:
    """Their value on the scores of `ours`, with labels [B, N]."""
    documents = [[*scores[real]] for scores, real in zip(ours.scores, ours.real, strict=True)]
    wanted = [own[real] for own, real in zip(labels, ours.real, strict=True)]
    return loss([["query"] * len(documents), documents], wanted)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("list_mle", lambda model: losses.ListMLELoss(model)),
        ("p_list_mle", lambda model: losses.PListMLELoss(model)),
        ("list_net", lambda model: losses.ListNetLoss(model)),
    ],
)
def test_listwise_losses(name, make):
    """The mean over lists; their labels are our relevances."""
    ours = lists()
    assert LOSSES[name].value(ours).mean().item() == pytest.approx(theirs(make(Scores()), ours, ours.relevance).item())


def test_adr_mse():
    """They divide by all documents of the batch, we by each list's."""
    ours = lists()
    sizes = ours.real.sum(dim=1)
    expected = theirs(losses.ADRMSELoss(Scores()), ours, ours.relevance)
    assert ((LOSSES["adr_mse"].value(ours) * sizes).sum() / sizes.sum()).item() == pytest.approx(expected.item())


def test_rank_net_and_lambda_loss():
    """They divide by all pairs of the batch; RankNet's logarithm is the natural one here, LambdaLoss's has base 2."""
    ours = lists()
    pairs = torch.tensor([size * (size - 1) / 2 for size in SIZES])
    ranknet = theirs(losses.RankNetLoss(Scores(), reduction_log="natural"), ours, ours.relevance)
    assert ((LOSSES["rank_net"].value(ours) * pairs).sum() / pairs.sum()).item() == pytest.approx(ranknet.item())
    lambdaloss = theirs(losses.LambdaLoss(Scores()), ours, ours.relevance)
    assert (LOSSES["lambda_loss"].value(ours).sum() / pairs.sum()).item() == pytest.approx(lambdaloss.item(), rel=1e-5)


@pytest.mark.parametrize("docs", [3, 5])
def test_margin_mse(docs):
    """A document against the others of its list: the pairs of our first one, of one length so that means agree."""
    ours = lists((2,) * docs)
    teacher = torch.randn(docs, 2, generator=torch.Generator().manual_seed(1))
    columns = [[*column] for column in ours.scores.T]
    loss = losses.MarginMSELoss.__new__(losses.MarginMSELoss)
    nn.Module.__init__(loss)
    loss.model, loss.activation_fn, loss.loss_fct = Scores(), nn.Identity(), nn.MSELoss()
    expected = loss([["query"] * docs, *columns], teacher)
    found = LOSSES["margin_mse"].value(replace(ours, teacher=teacher)).mean()
    assert found.item() == pytest.approx(expected.item())


def test_info_nce_is_multiple_negatives_ranking():
    """One document a query, and the documents of the other queries as its negatives."""
    scores = torch.randn(4, 4, generator=torch.Generator().manual_seed(2))  # of query i for the document of query j
    documents = {(i, j): scores[i, j] for i in range(4) for j in range(4)}
    loss = losses.MultipleNegativesRankingLoss.__new__(losses.MultipleNegativesRankingLoss)
    nn.Module.__init__(loss)
    loss.num_negatives, loss.scale, loss.activation_fn = None, 5.0, nn.Identity()
    loss.cross_entropy_loss = nn.CrossEntropyLoss()
    loss.call_model_with_pairs = lambda pairs, prompt, task: torch.stack([documents[pair] for pair in pairs])
    expected = loss([[0, 1, 2, 3], [0, 1, 2, 3]], None)
    own = lists((1,) * 4, negatives=3)
    ordered = torch.stack([torch.cat([row[i : i + 1], row[:i], row[i + 1 :]]) for i, row in enumerate(scores)])
    found = LOSSES["info_nce"].value(replace(own, scores=5.0 * ordered)).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_gradients_are_theirs():
    """By autograd through both."""
    for name, loss in (("list_mle", losses.ListMLELoss), ("list_net", losses.ListNetLoss)):
        ours, others = lists(), lists()
        LOSSES[name].value(ours).mean().backward(inputs=[ours.scores])
        theirs(loss(Scores()), others, others.relevance).backward(inputs=[others.scores])
        assert torch.allclose(ours.scores.grad, others.scores.grad, atol=1e-6)
