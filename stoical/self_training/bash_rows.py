"""BASH's rows: from a query to a record of its mixed tokens, and from the record to what is trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stoical.data import RankingRow
from stoical.mixed_prefix import MixedPrefix, PrefixTarget
from stoical.packing import TokenizedQuery
from stoical.queries import QueryEncoder
from stoical.self_training.job import Job, Pick, Record
from stoical.self_training.mixing import mix
from stoical.self_training.settings import BashSettings
from stoical.self_training.trie_walks import ExpertTrie


def bash_records(job: Job, settings: BashSettings, picks: Sequence[Pick]) -> list[Record]:
    """One record a pick: the tokens that it is to be trained on."""
    draws = [job.draws(pick, pick.longest, settings.beta, settings.per) for pick in picks]
    queries = [pick.query for pick in picks]
    tries = [ExpertTrie.of(query) for query in queries]
    mixed = mix(job.model, job.batch(queries), tries, draws, settings, job.recipe.layout)
    return [pick.origin | dataclasses.asdict(one) for pick, one in zip(picks, mixed, strict=True)]


def bash_counts(records: Sequence[Record]) -> dict[str, float]:
    """Rows and tokens, and shares: of tokens that are the model's own and that differ, of rows that differ or leave."""
    tokens = sum(len(record["tokens"]) for record in records)
    return {
        "rows": len(records),
        "tokens": tokens,
        "own_tokens": sum(sum(record["own"]) for record in records) / tokens,
        "changed_tokens": sum(sum(record["changed"]) for record in records) / tokens,
        "changed_rows": sum(any(record["changed"]) for record in records) / len(records),
        "off_trie_rows": sum(record["off_trie"] for record in records) / len(records),
    }


def bash_query(
    record: Mapping[str, Any], row: RankingRow, encoder: QueryEncoder, target: PrefixTarget
) -> TokenizedQuery:
    """The query with the record's prefix in place of the gold one; where nothing differs, the query as it is."""
    query = encoder.encode(row, record["epoch"])
    if not any(record["changed"]):
        return query
    return replace(query, mixed=MixedPrefix(tuple(record["tokens"]), target))
