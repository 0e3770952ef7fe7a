"""RAC, reference-answer-based correction (arXiv 2410.14655): the model's own answer in the prompt, and its correction.

The model answers x with y'; shown y' and the reference y, it then writes a correction c; the row to train on is
(x, y') -> c, the reference no longer in sight. Our copy of the paper gives neither the prompts' wording nor the
sampling nor the number of iterations: the wording is the template's, the others are settings. An answer that is right
teaches to copy it, so such rows are left out, or kept up to a share.

For ranking, answers and corrections are docIDs of the list, and `target=gold` trains on the rank-aware target of the
list without y' instead of on what the model wrote. Of plain text (`source=free`) y and c are the texts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from stoical.config.self_training import RacSettings
from stoical.decoding.sampling import drawn, write_freely
from stoical.encoding.generated_rows import top_docids
from stoical.encoding.prompts import Attempt
from stoical.encoding.tokenized import TokenizedQuery
from stoical.models.forward import node_logprobs
from stoical.self_training.job import Job, Pick, Record
from stoical.self_training.trie_walks import write_on_tries
from stoical.trie.expert import ExpertTrie

ANSWER, CORRECTION = 1, 2  # streams of random numbers
ROUNDING = 1e-9  # 0.12 of 25 rows are 3, and 0.12 * 22 / 0.88 is less


def rac_records(job: Job, settings: RacSettings, picks: Sequence[Pick]) -> list[Record]:
    """One record a pick, with the `outcome` that `rac_selected` looks at: a row to train on, or why it is none."""
    records = []
    for pick, tokens in zip(picks, _written(job, settings, picks, ANSWER), strict=True):
        answer = _text(job, pick, tokens)
        right = answer.strip() in top_docids(pick.query)
        outcome = "right" if right and not settings.keep_right else "row"
        if outcome == "row" and _with(job, pick, Attempt(answer)) is None:
            outcome = "too_long"
        records.append(pick.origin | {"previous": answer, "correction": None, "right": right, "outcome": outcome})
    if settings.target == "self_correction":
        _add_corrections(job, settings, picks, records)
    return records


def _add_corrections(job: Job, settings: RacSettings, picks: Sequence[Pick], records: Sequence[Record]) -> None:
    """Have the model, shown the reference, correct the answers of what is still to be a row."""
    shown: list[tuple[Pick, Record]] = []
    for pick, record in zip(picks, records, strict=True):
        query = _with(job, pick, Attempt(record["previous"], top_docids(pick.query)[0]))
        if record["outcome"] == "row" and query is not None:
            shown.append((replace(pick, query=query), record))
        elif record["outcome"] == "row":
            record["outcome"] = "too_long"
    corrections = _written(job, settings, [pick for pick, _ in shown], CORRECTION)
    for (pick, record), tokens in zip(shown, corrections, strict=True):
        record["correction"] = tokens
        text = _text(job, pick, tokens)
        record["copied"], record["corrected"] = text == record["previous"], text.strip() in top_docids(pick.query)
        if not text.strip() or tokens[-1] != job.encoder.tokenizer.eos_token_id:
            record["outcome"] = "unfinished"
        elif _with(job, pick, Attempt(record["previous"]), len(tokens)) is None:
            record["outcome"] = "too_long"


def _with(job: Job, pick: Pick, attempt: Attempt, target_tokens: int = 0) -> TokenizedQuery | None:
    """The query after an attempt; None where that leaves no room for all of its documents, or for its target."""
    try:
        query = job.encoder.encode(pick.row, pick.epoch, attempt=attempt)
    except ValueError:  # not even the top document fits
        return None
    fits = len(query.prompt_ids) + target_tokens <= job.encoder.max_length
    return query if fits and query.num_dropped == pick.query.num_dropped else None


def _text(job: Job, pick: Pick, tokens: list[int]) -> str:
    """What was written: a docID of the list by its name, else as the tokenizer decodes it, without the terminator."""
    ids = [list(docid) for docid in pick.query.docid_ids]
    if tokens in ids:
        return pick.query.docids[ids.index(tokens)]
    end = job.encoder.tokenizer.eos_token_id
    return str(job.encoder.tokenizer.decode([token for token in tokens if token != end]))


@torch.no_grad()
def _written(job: Job, settings: RacSettings, picks: Sequence[Pick], stream: int) -> list[list[int]]:
    """What the model writes after every pick's prompt, the terminator with it where it got that far."""
    if not picks:
        return []
    batch = job.batch([pick.query for pick in picks])
    if settings.source == "free":
        assert settings.max_tokens is not None
        draws = [job.draws(pick, settings.max_tokens, stream=stream) for pick in picks]
        choose = drawn(torch.from_numpy(np.stack([own.uniform for own in draws])), settings.temperature)
        end = int(job.encoder.tokenizer.eos_token_id)
        return write_freely(job.model, batch, settings.max_tokens, choose, end)
    walks = write_on_tries(
        batch,
        node_logprobs(job.model, batch, job.recipe.layout, keep="logits"),
        [ExpertTrie.of(pick.query.docid_ids, pick.query.ranks) for pick in picks],
        [job.draws(pick, pick.longest, stream=stream) for pick in picks],
        source="constrained",
        temperature=settings.temperature,
        along_gold=False,
    )
    return [walk.tokens for walk in walks]


def rac_selected(records: Sequence[Record], settings: RacSettings, seed: int) -> tuple[list[Record], dict[str, float]]:
    """The rows to train on, with as many right answers among them as `keep_right` allows, and all that was counted.

    right_answers is a share of the answers, copied and corrected of the rows; the others are numbers.
    """
    rows = [record for record in records if record["outcome"] == "row"]
    right = [record["place"] for record in rows if record["right"]]
    limit = int(settings.keep_right * (len(rows) - len(right)) / (1 - settings.keep_right) + ROUNDING)
    left_out = set(right) - set(random.Random(seed).sample(right, min(limit, len(right))))
    kept = [record for record in rows if record["place"] not in left_out]
    counts: dict[str, float] = {
        "answers": len(records),
        "right_answers": sum(record["right"] for record in records) / len(records),
        "rows": len(kept),
        "rows_of_right_answers": sum(record["right"] for record in kept),
        "too_long": sum(record["outcome"] == "too_long" for record in records),
    }
    if settings.target == "self_correction":
        counts["unfinished"] = sum(record["outcome"] == "unfinished" for record in records)
        counts |= {key: sum(record[key] for record in kept) / max(1, len(kept)) for key in ("copied", "corrected")}
    return kept, counts
