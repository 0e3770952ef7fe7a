"""Preference pairs: of two outputs for one prompt, the one to prefer, as token ids that are never tokenized again.

Three sources: `ranking`, documents above others; `beam`, the right answer above the model's own errors on the trie;
`free`, the right answer above what the model writes without constraint.

Every document of the first rank is a right answer. Those that share a rank come in the order that encoding draws for
the dataset's epoch, so that the pairs do not depend on the file's order.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import combinations, pairwise

import datasets
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn

from stoical.common.progress import progress
from stoical.decoding.choices import Reduction
from stoical.decoding.free_run import beam_scores
from stoical.decoding.sampling import free_outputs
from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.queries import EncodedDataset
from stoical.encoding.tokenized import TokenizedQuery
from stoical.evaluation.evaluator import sample
from stoical.models.forward import node_logprobs
from stoical.models.layouts import Layout
from stoical.models.modes import eval_mode
from stoical.preferences.settings import PairSettings, Which


@dataclass(frozen=True, slots=True)
class Pair:
    """Prompt ids (one BOS) and the ids of two outputs for it, terminators included; the first is to be preferred."""

    query_id: str
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def ranking_pairs(query: TokenizedQuery, which: Which, per_query: int | None, seed: str) -> Iterator[Pair]:
    """Documents above documents of a worse rank: the first rank's above all (top), each rank's above the next's
    (adjacent), or some drawn of all such pairs (random). Documents that share a rank do not make a pair.
    """
    ranks = query.ranks[: query.num_listed]
    picked = [(i, j) for i, j in combinations(range(len(ranks)), 2) if ranks[i] < ranks[j]]
    following = dict(pairwise(sorted(set(ranks))))
    if which == "top":
        picked = [(i, j) for i, j in picked if ranks[i] == ranks[0]]
    elif which == "adjacent":
        picked = [(i, j) for i, j in picked if ranks[j] == following[ranks[i]]]
    else:
        assert per_query is not None
        picked = sorted(random.Random(seed).sample(picked, min(per_query, len(picked))))
    for better, worse in picked[:per_query]:
        yield _pair(query, query.docid_ids[better], query.docid_ids[worse])


def beam_pairs(query: TokenizedQuery, scores: Sequence[float], per_query: int | None) -> Iterator[Pair]:
    """Each document of the first rank above the others that a beam search puts before it, the best of these first.

    scores: of the query's docIDs in the search's result, -inf for those that it did not find. Of equal scores the
    document of the first rank comes first.
    """
    others = sorted(range(query.num_tops, len(query.ranks)), key=lambda j: -scores[j])
    errors = [(i, j) for j in others for i in range(query.num_tops) if scores[j] > scores[i]]
    for better, worse in errors[:per_query]:
        yield _pair(query, query.docid_ids[better], query.docid_ids[worse])


def free_pairs(query: TokenizedQuery, outputs: Sequence[list[int]], counts: Counter[str]) -> Iterator[Pair]:
    """A document of the first rank above every different output, which need not be a docID at all.

    Where several share that rank, they take turns. Outputs that are one of them would teach nothing or the wrong thing:
    they and repeated ones are left out, and counted in `counts`.
    """
    right = [list(ids) for ids in query.docid_ids[: query.num_tops]]
    seen: list[list[int]] = []
    for ids in outputs:
        if ids in right:
            counts["right_outputs"] += 1
        elif ids in seen:
            counts["repeated_outputs"] += 1
        else:
            seen.append(ids)
            yield _pair(query, right[(len(seen) - 1) % len(right)], ids)


def _pair(query: TokenizedQuery, chosen: Sequence[int], rejected: Sequence[int]) -> Pair:
    return Pair(query.query_id, list(query.prompt_ids), list(chosen), list(rejected))


@dataclass(frozen=True, slots=True)
class PairMaker:
    """Makes the pairs of a split, shared out over the processes; prompts are those of the dataset's epoch.

    score and layout are the checkpoint's, for the beam search.
    """

    dataset: EncodedDataset
    collator: TrieTargetCollator
    settings: PairSettings
    score: Reduction
    layout: Layout
    batch_size: int
    seed: str

    def __call__(self, model: nn.Module, shown: bool = False) -> tuple[list[Pair], dict[str, int]]:
        """The pairs in the split's order, and counts: queries, pairs, and what was left out or cut short.

        Every process calls it and gets the whole result. A model that is not yet shared out over processes. shown: say
        how far it is, on the main process.
        """
        state = PartialState()
        picked = sample(len(self.dataset), self.settings.num_queries, self.seed)
        mine = picked[state.process_index :: state.num_processes]
        counts: Counter[str] = Counter()
        found = list(self._found(model, mine, counts, shown and state.is_main_process))
        if state.num_processes > 1:
            found = gather_object(found)
            counts = sum(gather_object([counts]), Counter())
        pairs = [pair for _, own in sorted(found, key=lambda item: item[0]) for pair in own]
        without = sum(not own for _, own in found)
        report = {"queries": len(picked), "pairs": len(pairs), "queries_without_pairs": without}
        report |= {name: count for name, count in sorted(counts.items()) if count}
        return pairs, report

    def _found(
        self, model: nn.Module, indices: list[int], counts: Counter[str], shown: bool
    ) -> Iterator[tuple[int, list[Pair]]]:
        starts = range(0, len(indices), self.batch_size)
        for start in progress(starts, "making pairs, batches", shown):
            chosen = indices[start : start + self.batch_size]
            queries = [self.dataset[index] for index in chosen]
            counts["dropped_docs"] += sum(query.num_dropped for query in queries)
            yield from zip(chosen, self._pairs(model, queries, counts), strict=True)

    def _pairs(self, model: nn.Module, queries: list[TokenizedQuery], counts: Counter[str]) -> list[list[Pair]]:
        source, limit = self.settings.source, self.settings.per_query
        if source == "ranking":
            which = self.settings.pairs
            return [list(ranking_pairs(q, which, limit, f"{self.seed}/{q.query_id}")) for q in queries]
        if source == "beam":
            scores = self._beams(model, queries)
            return [list(beam_pairs(q, own, limit)) for q, own in zip(queries, scores, strict=True)]
        outputs = self._outputs(model, queries, counts)
        return [list(free_pairs(q, own, counts)) for q, own in zip(queries, outputs, strict=True)]

    @torch.no_grad()
    def _beams(self, model: nn.Module, queries: list[TokenizedQuery]) -> list[list[float]]:
        """What a constrained beam search finds, read off one exact forward (`free_run.beam_scores`)."""
        batch = self._packed(model, queries)
        with eval_mode(model):
            logprobs = node_logprobs(model, batch, self.layout).logprobs
        scores = beam_scores(batch, logprobs, self.settings.num_beams, self.score)
        return [own.tolist() for own in torch.split(scores, [len(q.docids) for q in queries])]

    def _outputs(
        self, model: nn.Module, queries: list[TokenizedQuery], counts: Counter[str]
    ) -> Iterator[tuple[list[int], ...]]:
        """The outputs of every query."""
        eos, settings = int(self.dataset.encoder.tokenizer.eos_token_id), self.settings
        batch = self._packed(model, queries)
        draws = []
        for draw in range(settings.per_query or 1):
            seeds = [f"{self.seed}/{query.query_id}/{draw}" for query in queries]
            draws.append(free_outputs(model, batch, eos, settings.max_new_tokens, settings.temperature, seeds))
            counts["cut_outputs"] += sum(ids[-1] != eos for ids in draws[-1])
        return zip(*draws, strict=True)

    def _packed(self, model: nn.Module, queries: list[TokenizedQuery]) -> PackedBatch:
        return self.collator(queries)["batch"].to(next(model.parameters()).device)


def as_dataset(pairs: Sequence[Pair]) -> datasets.Dataset:
    """The pairs as TRL takes them: a column a field."""
    columns = {field.name: [getattr(pair, field.name) for pair in pairs] for field in fields(Pair)}
    return datasets.Dataset.from_dict(columns)
