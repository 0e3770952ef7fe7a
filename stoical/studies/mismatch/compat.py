"""Block 1: the simulation of the mismatch paper by its own conventions, as far as these can be told.

Dimension letters: R replications, B queries of all of them, b of one, M trie nodes, L tokens of a docID, V vocabulary.

Teacher forcing, scheduled sampling and Eq. 1, where the model's own tokens are not constrained to any trie: its
prefixes leave the tries of relevant documents, and what a position there counts is a setting (`off_trie`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stoical.common.arrays import Floats
from stoical.decoding.walks import gold_child, gumbel, spelled, visited
from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.packing import TrieTargetCollator
from stoical.objectives.mitigations.consistency import literal_kl
from stoical.objectives.mitigations.schedules import gold_probability
from stoical.studies.mismatch.models import Bigram, Recurrent, Replicated
from stoical.studies.mismatch.settings import MismatchSettings
from stoical.studies.mismatch.worlds import World, generator, random_world
from stoical.trie.node_weights import TargetSettings

METHODS = ("Teacher Forcing", "Sched. Sampling", "Consistency Reg.")
REFERENCES = ("chance", "modal token")
CHUNK = 50  # replications at once
WORLDS, ORDER, INIT, SAMPLES = range(4)  # streams of random numbers


@dataclass(frozen=True, slots=True)
class Queries:
    """Some queries of every replication: their tries, their places [R, b], and the top documents' tokens [R, b, L]."""

    batch: PackedBatch
    places: Tensor
    gold: Tensor
    forced: Tensor  # [N] the nodes after the top document's prefixes


def simulate(settings: MismatchSettings, first: int) -> dict[str, dict[str, Floats]]:
    """Every method's measures, [R] or [R, L], over the replications `first` and on, up to CHUNK of them."""
    numbers = range(first, min(first + CHUNK, settings.compat.replications))
    worlds = [_world(settings, number) for number in numbers]
    compat = settings.compat
    batches = [
        queries_of(worlds, range(start, start + compat.batch), compat.beta)
        for start in range(0, compat.queries, compat.batch)
    ]
    start = compat.queries if compat.held_out else 0
    tested = queries_of(worlds, range(start, start + compat.evaluated), compat.beta)
    found = {}
    for name in METHODS:
        model = new_model(settings, worlds, first)
        losses = train(model, batches, settings, name, first)
        found[name] = {"loss": losses, **evaluate(model, tested, settings)}
    for name in REFERENCES:
        found[name] = evaluate(_reference(settings, worlds, name), tested, settings)
    return found


def _world(settings: MismatchSettings, number: int) -> World:
    compat = settings.compat
    queries = compat.queries + (compat.evaluated if compat.held_out else 0)
    sizes = compat.shortest_list, compat.longest_list
    random = generator(settings.seed, WORLDS, number)
    shape = settings.documents, settings.length, settings.vocabulary
    return random_world(random, compat.generator == "hierarchical", *shape, queries, sizes)


def queries_of(worlds: list[World], places: range, beta: float) -> Queries:
    """Those queries of every replication, packed."""
    rows = [world.query(place, "") for world in worlds for place in places]
    batch = TrieTargetCollator(TargetSettings(token="trie", beta=beta), prune=False)(rows)["batch"]
    gold = np.stack([[world.docids[world.lists[place][0]] for place in places] for world in worlds])
    forced = after(batch, visited(batch, gold_child(batch))[0])
    return Queries(batch, torch.tensor([list(places)] * len(worlds)), torch.from_numpy(gold), forced)


def after(batch: PackedBatch, run: Tensor) -> Tensor:
    """[N] the nodes that a target leads to from the prefixes of `run` [M]."""
    return (run[batch.node_parent] & (batch.node_target > 0) & (batch.node_token >= 0)).nonzero()[:, 0]


def new_model(settings: MismatchSettings, worlds: list[World], first: int) -> Replicated:
    """The model before training; the same for every method."""
    features = torch.from_numpy(np.stack([world.features for world in worlds])).float()
    seed = int(generator(settings.seed, INIT, first).integers(2**31))
    if settings.compat.model == "bigram":
        return Bigram(features, settings.vocabulary, settings.length, settings.compat.init_scale, seed)
    return Recurrent(features, settings.vocabulary, settings.length, settings.exact.hidden, seed)


def _reference(settings: MismatchSettings, worlds: list[World], name: str) -> Replicated:
    """A model that gives each position's tokens one probability, whatever the query and the prefix."""
    features = torch.zeros(len(worlds), settings.compat.queries + settings.compat.evaluated, 1)
    model = Bigram(features, settings.vocabulary, settings.length, 0.0, 0)
    if name == "modal token":
        tops = np.stack([world.docids[[one[0] for one in world.lists[: settings.compat.queries]]] for world in worlds])
        counts = torch.nn.functional.one_hot(torch.from_numpy(tops), settings.vocabulary).sum(dim=1)  # [R, L, V]
        with torch.no_grad():
            for step, bias in enumerate(model.bias):
                bias.copy_((counts[:, step] + 1e-3).log())
    return model


def train(model: Replicated, batches: list[Queries], settings: MismatchSettings, name: str, first: int) -> Floats:
    """Train in place; [R] the mean loss of the last epoch."""
    compat, random = settings.compat, generator(settings.seed, ORDER)
    torch.manual_seed(settings.seed + SAMPLES + first)
    kind = torch.optim.SGD if compat.optimizer == "sgd" else torch.optim.Adam
    optimizer = kind(model.parameters(), lr=compat.learning_rate)
    steps, losses = compat.epochs * len(batches), []
    for epoch in range(compat.epochs):
        for place, which in enumerate(random.permutation(len(batches))):
            queries = batches[which]
            step = epoch * len(batches) + place
            gold = gold_probability("linear", max(1, steps // 2), compat.minimum, step)
            main, term = step_loss(model, queries, settings, name, gold)
            optimizer.zero_grad()
            ((main + term).sum() / compat.batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if epoch == compat.epochs - 1:
                losses.append((main + term if compat.term_in_loss else main).detach().mean(dim=1))
    mean: Floats = torch.stack(losses).mean(dim=0).double().numpy()
    return mean


def step_loss(
    model: Replicated, queries: Queries, settings: MismatchSettings, name: str, gold: float
) -> tuple[Tensor, Tensor]:
    """[R, b] each query's loss, and what Eq. 1 adds to it: means over positions, as `reduction` has them."""
    compat = settings.compat
    if name == "Sched. Sampling":
        tokens = own_tokens(model, queries, gold, compat.sampler == "sampled")
        run = spelled(queries.batch, tokens.flatten(0, 1))
        logprobs = model.chain(queries.places, tokens).log_softmax(dim=-1)
        main = reduced(queries.batch, logprobs, after(queries.batch, run), settings)
        return main, torch.zeros_like(main)
    logprobs = model.chain(queries.places, queries.gold).log_softmax(dim=-1)
    main = reduced(queries.batch, logprobs, queries.forced, settings)
    if name == "Teacher Forcing" or compat.consistency_weight == 0:
        return main, torch.zeros_like(main)
    tokens = own_tokens(model, queries, 0.0, compat.sampler == "sampled")
    own = model.chain(queries.places, tokens).log_softmax(dim=-1)
    apart = (tokens != queries.gold).cumsum(dim=2)[..., :-1] > 0  # where the prefixes are the same, so is p: exactly 0
    term = literal_kl(logprobs[:, :, 1:][apart], own[:, :, 1:][apart], compat.stop_gradient)
    scale = settings.length * (settings.vocabulary if compat.reduction == "mean" else 1)
    share = compat.consistency_weight * term / scale / main.numel()  # a sum over queries, spread evenly to be reported
    return main, share.expand_as(main)


@torch.no_grad()
def own_tokens(model: Replicated, queries: Queries, gold: float, sampled: bool) -> Tensor:
    """[R, b, L] tokens of which each is the top document's with probability `gold`, else the model's after those."""
    state = model.start(queries.places)
    tokens: list[Tensor] = []
    for step in range(queries.gold.shape[2]):
        if step:
            state = model.extend(state, step, model.embedded(step, tokens[-1]))
        logits = model.logits(state, step)
        if sampled:
            logits = gumbel(logits.flatten(), walks=1)[0].view_as(logits)
        forced = torch.rand(tokens[0].shape if tokens else logits.shape[:2]) < gold
        tokens.append(torch.where(forced, queries.gold[..., step], logits.argmax(dim=-1)))
    return torch.stack(tokens, dim=2)


def step_kl(batch: PackedBatch, logprobs: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """[B, L] KL(q || p) by position, and where there is a target: at the prefixes that `nodes` [N] come after.

    logprobs [B, L, V] of one run a query, nats.
    """
    row, step, target = batch.node_row[nodes], batch.node_depth[nodes] - 1, batch.node_target[nodes]
    terms = torch.xlogy(target, target) - target * logprobs[row, step, batch.node_token[nodes]]
    empty = logprobs.new_zeros(logprobs.shape[:2])
    alive = empty.index_put((row, step), torch.ones_like(target))
    return empty.index_put((row, step), terms, accumulate=True), alive > 0


def reduced(batch: PackedBatch, logprobs: Tensor, nodes: Tensor, settings: MismatchSettings) -> Tensor:
    """[R, b] the mean of `position_kl` over positions; with `mask`, over those that have a target."""
    kl, alive = position_kl(batch, logprobs, nodes, settings)
    if settings.compat.off_trie == "mask":
        return kl.sum(dim=2) / alive.sum(dim=2).clamp(min=1)
    return kl.mean(dim=2)


def position_kl(
    batch: PackedBatch, logprobs: Tensor, nodes: Tensor, settings: MismatchSettings
) -> tuple[Tensor, Tensor]:
    """[R, b, L] KL(q || p) by position as the settings count it, and where there is a target; logprobs [R, b, L, V]."""
    kl, alive = (each.view(logprobs.shape[:3]) for each in step_kl(batch, logprobs.flatten(0, 1), nodes))
    if settings.compat.off_trie == "uniform":
        kl = torch.where(alive, kl, -np.log(logprobs.shape[3]) - logprobs.mean(dim=3))
    return (kl / logprobs.shape[3] if settings.compat.reduction == "mean" else kl), alive


@torch.no_grad()
def evaluate(model: Replicated, tested: Queries, settings: MismatchSettings) -> dict[str, Floats]:
    """What the paper's Table 1 and Figure 1 have, by replication.

    Qualities are shares of tokens equal to the top document's: of the model's own greedy run, and of its predictions
    after the gold prefix. mismatch: the mean over positions of KL on the own run, less that on the gold one.
    """
    batch, gold = tested.batch, tested.gold
    tokens = own_tokens(model, tested, 0.0, sampled=False)
    run = spelled(batch, tokens.flatten(0, 1))
    forced = model.chain(tested.places, gold).log_softmax(dim=-1)
    own = model.chain(tested.places, tokens).log_softmax(dim=-1)
    kl_tf, _ = position_kl(batch, forced, tested.forced, settings)
    kl_ar, alive = position_kl(batch, own, after(batch, run), settings)
    right = tokens == gold
    lasts = (batch.node_depth == batch.node_depth.max()) & run
    relevant = torch.bincount(batch.node_row[lasts], minlength=len(batch.query_ids)).view(right.shape[:2])
    measures = {
        "ar_quality": right.float().mean(dim=(1, 2)),
        "tf_quality": (forced.argmax(dim=-1) == gold).float().mean(dim=(1, 2)),
        "docid_accuracy": right.all(dim=2).float().mean(dim=1),
        "relevant": relevant.float().mean(dim=1),
        "mismatch": over_positions(kl_ar, alive, settings) - kl_tf.mean(dim=(1, 2)),
        "kl_first": kl_tf[..., 0].mean(dim=1),
        "kl_tf": kl_tf.mean(dim=1),
        "kl_ar": kl_ar.mean(dim=1),
        "alive": alive.float().mean(dim=1),
    }
    return {name: values.double().numpy() for name, values in measures.items()}


def over_positions(kl: Tensor, alive: Tensor, settings: MismatchSettings) -> Tensor:
    """[R] the mean of `kl` [R, b, L] over queries and positions, as the settings count them."""
    if settings.compat.off_trie == "mask":
        return kl.sum(dim=(1, 2)) / alive.sum(dim=(1, 2)).clamp(min=1)
    return kl.mean(dim=(1, 2))
