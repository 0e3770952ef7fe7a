"""The margin against negatives: pairs and partial scores against slow loops in float64, on the evaluation's score."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stoical.decoding.scores import doc_scores
from stoical.encoding.tokenized import TokenizedQuery
from stoical.models.forward import node_logprobs
from stoical.objectives.mitigations.margin import Margin, MarginSettings, doc_pairs, pair_losses
from stoical.objectives.objective import StepContext
from stoical.objectives.stoical_loss import SToICaLLoss
from stoical.runs.resume import is_free
from stoical.trie.node_weights import TargetSettings
from tests.support.contexts import Context
from tests.support.gradients import first_gradient
from tests.support.made_up import made_up_logprobs
from tests.support.packed import pack, prefix_of
from tests.support.random_queries import ragged_queries, random_query
from tests.support.tiny_model import tiny_model
from tests.support.tiny_recipe import tiny_recipe

ITEM = TargetSettings("fractional", 1.0)
KINDS = {"hinge": MarginSettings(kind="hinge", margin=0.7), "logistic": MarginSettings(kind="logistic")}


def loop_pairs(query, positives):
    """Places of (positive, negative), each within the query."""
    above = [i for i in range(query.num_listed) if positives == "all" or query.ranks[i] == 1]
    return [(i, j) for i in above for j in range(query.num_listed, len(query.docids))]


def loop_score(logprob, ids, score):
    total = sum(logprob[tuple(ids[: step + 1])] for step in range(len(ids)))
    return total / len(ids) if score == "mean" else total


def loop_depths(ours, theirs, prefix):
    """How many tokens of each are compared: all of both; before, as many of both, once they have parted."""
    depths = [(len(ours), len(theirs))]
    for depth in range(1, min(len(ours), len(theirs)) + 1):
        if prefix and ours[:depth] != theirs[:depth] and (depth, depth) != depths[0]:
            depths.append((depth, depth))
    return depths


def loop_margin(queries, batch, logprobs, setting, score):
    """Sum over queries of the mean over pairs, from the docIDs' own tokens."""
    total = torch.zeros((), dtype=torch.float64)
    for row, query in enumerate(queries):
        logprob = {
            prefix_of(batch, node): logprobs[node] for node in range(len(logprobs)) if batch.node_row[node] == row
        }
        ids = [list(tokens)[:count] for tokens, count in zip(query.docid_ids, query.counted, strict=True)]
        losses = []
        for i, j in loop_pairs(query, setting.positives):
            for ours, theirs in loop_depths(ids[i], ids[j], setting.prefix):
                difference = loop_score(logprob, ids[i][:ours], score) - loop_score(logprob, ids[j][:theirs], score)
                if setting.kind == "hinge":
                    losses.append((setting.margin - difference).clamp(min=0))
                else:
                    losses.append(-torch.sigmoid(difference).log())
        if losses:
            total = total + sum(losses) / len(losses)
    return total


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.tuples(st.integers(1, 7), st.integers(0, 4)), min_size=1, max_size=3),
    kind=st.sampled_from(list(KINDS)),
    positives=st.sampled_from(["top", "all"]),
    prefix=st.booleans(),
    score=st.sampled_from(["mean", "sum"]),
    count_terminator=st.booleans(),
)
def test_value_and_gradient_by_loop(seed, sizes, kind, positives, prefix, score, count_terminator):
    """Ragged queries, some without negatives; float64, values to 1e-9 and the gradient of every node."""
    queries = [
        random_query(seed + place, docs=docs, negatives=negatives, count_terminator=count_terminator)
        for place, (docs, negatives) in enumerate(sizes)
    ]
    batch, setting = pack(queries, ITEM), replace(KINDS[kind], positives=positives, prefix=prefix)
    ours, theirs = (made_up_logprobs(batch, seed).requires_grad_() for _ in range(2))
    term = Margin(setting, score)(Context(batch, ours, step=0))
    expected = loop_margin(queries, batch, theirs, setting, score)
    assert term.loss_sum.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)
    assert term.logs["margin"] == pytest.approx(expected.item() / len(queries), rel=1e-9, abs=1e-12)
    if expected.requires_grad:
        term.loss_sum.backward()
        expected.backward()
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def by_hand(prefix):
    """d = "5 6" and d- = "5 7 7" part at the second token; each ends with an uncounted EOS."""
    query = TokenizedQuery("q1", [1, 4], ["d", "n"], [[5, 6, 2], [5, 7, 7, 2]], [2, 3], [1, 2], num_negatives=1)
    batch = pack([query], ITEM)
    steps = {(5,): -1.0, (5, 6): -2.0, (5, 7): -0.5, (5, 7, 7): -4.0}
    logprobs = torch.tensor([steps.get(prefix_of(batch, node), -9.0) for node in range(len(batch.node_token))])
    term = Margin(MarginSettings(kind="hinge", margin=2.0, prefix=prefix), "sum")
    return term(Context(batch, logprobs.double(), step=0))


def test_by_hand():
    """Whole: -3 - (-5.5) = 2.5, no loss. After two tokens: -3 - (-1.5) = -1.5, a loss of 3.5. After one: no pair."""
    assert by_hand(prefix=False).loss_sum.item() == 0
    assert by_hand(prefix=True).loss_sum.item() == pytest.approx((0 + 3.5) / 2)
    assert by_hand(prefix=True).logs == pytest.approx({"margin": 1.75, "outranked": 0.0})


@pytest.mark.parametrize("score", ["mean", "sum"])
def test_the_score_is_the_evaluations(score):
    """Where no pair is lost by `doc_scores`, no pair has a loss; a single violation is worth its distance."""
    batch = pack([random_query(5, docs=4, negatives=3)], ITEM)
    logprobs = made_up_logprobs(batch)
    scores = doc_scores(batch, logprobs, score)
    above, below = doc_pairs(batch, "all")
    worst = (scores[above] - scores[below]).min().item()
    for gap, lost in ((worst - 1e-9, 0), (worst + 0.01, 1)):
        losses = pair_losses(scores[above] - scores[below] + 5, "hinge", 5 + gap)
        assert (losses > 0).sum() == lost
    term = Margin(MarginSettings(kind="hinge", margin=0.5), score)(Context(batch, logprobs, step=0))
    expected = (0.5 - scores[:4, None] + scores[None, 4:]).clamp(min=0).mean()
    assert term.loss_sum.item() == pytest.approx(expected.item(), rel=1e-12)
    assert term.logs["outranked"] == pytest.approx(((scores[:4, None] <= scores[None, 4:]).float().mean()).item())


def test_ties_at_the_top_are_all_positives():
    query = replace(random_query(2, docs=4, negatives=2), ranks=[1, 1, 3, 4, 5, 5])
    above, _ = doc_pairs(pack([query], ITEM), "top")
    assert sorted(set(above.tolist())) == [0, 1]


def test_without_negatives_the_loss_is_the_base_loss():
    gradients = []
    for terms in ([], [Margin(KINDS["hinge"], "mean")]):
        model, batch = tiny_model(), pack(ragged_queries(), ITEM)
        context = StepContext(batch, node_logprobs(model, batch), 0, node_logprobs, node_logprobs)
        loss = sum(term(context).loss_sum for term in [SToICaLLoss(ITEM), *terms])
        loss.backward()
        gradients.append([loss.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_far_scores_keep_finite_gradients(kind):
    batch = pack(ragged_queries(negatives=2), ITEM)
    logprobs = (made_up_logprobs(batch).float() * 1000).requires_grad_()
    term = Margin(replace(KINDS[kind], prefix=True), "sum")(Context(batch, logprobs, step=0)).loss_sum
    assert term.isfinite()
    term.backward()
    assert logprobs.grad.isfinite().all()


def test_layouts_agree():
    model, batch = tiny_model(), pack(ragged_queries(negatives=2), ITEM)
    values = []
    for layout in ("sequence", "cache", "pointwise"):
        context = StepContext(batch, node_logprobs(model, batch, layout), 0, node_logprobs, node_logprobs)
        values.append(Margin(replace(KINDS["logistic"], prefix=True), "mean")(context).loss_sum.item())
    assert values[1:] == pytest.approx([values[0]] * 2, rel=1e-4)


@pytest.mark.parametrize("name", ["margin", "prefix_margin"])
def test_accumulation_changes_nothing(tmp_path, name):
    """1 x 8 = 2 x 4: the same negatives, whichever micro-batch a query is in."""
    words = ["training.max_steps=1", "training.max_grad_norm=0"]
    whole, cut = (
        first_gradient(
            tiny_recipe(
                tmp_path, *words, f"training.per_device_train_batch_size={size}", recipe=f"wordnet_alpha2,{name}"
            )
        )
        for size in (8, 4)
    )
    alone = first_gradient(tiny_recipe(tmp_path, *words, recipe="wordnet_alpha2"))
    assert (cut - whole).norm() < 1e-6 * max(1, whole.norm())
    assert (whole - alone).norm() > 1e-3


@pytest.mark.parametrize("prefix", [False, True])
def test_its_gradient_puts_documents_above_negatives(prefix):
    """The term alone, on the same three queries again and again."""
    model, batch = tiny_model(), pack(ragged_queries(negatives=3), ITEM)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    logs = []
    for step in range(30):
        term = Margin(MarginSettings(margin=0.5, prefix=prefix), "mean")(
            StepContext(batch, node_logprobs(model, batch), step, node_logprobs, node_logprobs)
        )
        optimizer.zero_grad()
        term.loss_sum.backward()
        optimizer.step()
        logs.append(term.logs)
    assert logs[0]["outranked"] > 0.2
    assert logs[-1]["outranked"] == 0
    assert logs[-1]["margin"] < 0.1 * logs[0]["margin"]


def test_the_score_may_not_change_on_resume(tmp_path):
    """Evaluation's settings are free in a resumed run, but this one is trained on."""
    assert not is_free("eval.score", tiny_recipe(tmp_path, recipe="wordnet_beta2,margin"))
    assert is_free("eval.score", tiny_recipe(tmp_path, recipe="wordnet_beta2"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (MarginSettings(weight=-1.0, margin=1.0), r"weight=-1.0 must be a finite number"),
        (MarginSettings(), r"margin goes with kind=hinge: set it there"),
        (MarginSettings(kind="logistic", margin=1.0), r"margin goes with kind=hinge: set it there"),
        (MarginSettings(margin=0.0), r"margin=0.0 must be a finite number above 0"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=f"mitigations.margin.{message}"):
        setting.check()
