"""Make a dataset of plain text: prompts, and the target to write after each.

    stoical prepare text input=pairs.jsonl out=data/mine
    stoical prepare text input=train.jsonl test_input=test.jsonl out=data/mine

A row of input= (.jsonl, .csv, .tsv, .parquet, or a directory by datasets' save_to_disk) has a prompt and a target, or
messages, a conversation, whose last, the assistant's, is the target. Prompts and targets are written as they stand:
what ends a prompt, such as a line break, is part of it. Where conversations are longer than a user's message and its
answer, a prompt has each message on a line after its role (`user: ...`), and ends with `assistant:`. Rows that are left
out are counted in manifest.json and listed in dropped.parquet. Train with prompt.template=plain (recipe=text_sft): see
docs/data.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stoical.common.lazy import pa
from stoical.common.options import option
from stoical.data.dataset import row_schema

from ..chat import Chat, are_alone, read_chat
from ..checks import check_seed
from ..columns import Column, chosen, read_any
from ..dataset_dir import Row, check_replaceable, write_dataset
from ..dropped import Dropped, listed_on_error, print_dropped
from ..lists import describe
from ..tables import check_text

TOOL = "stoical prepare text"
SHOWN = 60  # characters of a prompt in the list of what was dropped


@dataclass
class TextOptions:
    """What the user can set; `--help` prints it."""

    input: str = option("", "the file or directory of prompts and targets")
    test_input: str = option("", "those for testing; without it the seed splits the prompts")
    out: str = option("data/mine", "the directory to write; a dataset in it is replaced if this command made it")
    prompt_column: str = option("prompt", "the column of the prompt")
    target_column: str = option("target", "the column of the target")
    messages_column: str = option(
        "messages", "the column of conversations, lists of {role, content}, which is read where there is no target"
    )
    strip: bool = option(False, "cut blanks and line breaks off both ends of targets, which are an error otherwise")
    test_size: int | None = option(None, "how many prompts are for testing without test_input=; if not given, a tenth")
    seed: int = option(0, "seed of the split and of the order, 0 to 4294967295")
    licence: str = option("unknown", "the data's licence, for the manifest")


@dataclass(frozen=True)
class Pair:
    """A prompt, its target, and where they stand."""

    prompt: str
    target: str
    where: str


def build(options: TextOptions) -> None:
    """Make the dataset that `options` describe; ValueError where they cannot be met."""
    _check(options)
    dropped = Dropped()
    inputs = {key: Path(getattr(options, key)) for key in ("input", "test_input") if getattr(options, key)}
    read = {key: read_rows(path, options, dropped) for key, path in inputs.items()}
    alone = are_alone(row for rows in read.values() for row in rows if isinstance(row, Chat))
    pairs = {key: distinct(as_pairs(rows, alone), options, dropped) for key, rows in read.items()}
    with listed_on_error(dropped):
        if "test_input" in pairs:
            splits = {"train": without(pairs["input"], pairs["test_input"], dropped), "test": pairs["test_input"]}
        else:
            splits = split_prompts(pairs["input"], options)
        for split, found in splits.items():
            if not found:
                raise ValueError(f"no row of {split} is left; what was left out is listed above")
    manifest = describe(options, TOOL, inputs) | {"dropped": dropped.summary()}
    rows_of = make_rows(splits, options)
    tables = {split: pa.Table.from_pylist(rows, schema=row_schema()) for split, rows in rows_of.items()}
    extra = {"dropped": dropped.to_arrow()}
    manifest = write_dataset(Path(options.out), tables, f"{options.licence}\n", manifest, extra)
    print_dropped(manifest["dropped"])
    for split, counts in manifest["splits"].items():
        print(f"  {split}: {counts['queries']:,} prompts with their targets")
    print(f"wrote {options.out}")


def _check(options: TextOptions) -> None:
    check_replaceable(Path(options.out), TOOL)
    if not options.input:
        raise ValueError("input= is missing: a file of prompts and targets")
    if options.prompt_column == options.target_column:
        raise ValueError(f"prompt_column= and target_column= are both {options.prompt_column}")
    check_seed(options.seed)
    if options.test_input and options.test_size is not None:
        raise ValueError(f"test_size={options.test_size} has no effect with test_input=: drop one of them")


def read_rows(path: Path, options: TextOptions, dropped: Dropped) -> Sequence[Pair | Chat]:
    """The pairs or conversations of a file; those without an answer are noted and left out.

    ValueError for a file that cannot be read or has no rows, and for cells that do not hold text.
    """
    named = {key: getattr(options, f"{key}_column") for key in ("prompt", "target", "messages")}
    columns = {key: Column.of(f"{key}_column", name, ()) for key, name in named.items()}
    table, pair = read_any(path, columns.values()), ("prompt", "target")
    lacks = any(columns[key].find(table.columns) is None for key in pair)
    if lacks and columns["messages"].find(table.columns):
        table = chosen(table, path, {"messages": columns["messages"]})
        chats = [read_chat(cell, where, dropped) for where, (cell,) in table.rows("messages")]
        return [chat for chat in chats if chat]
    table = check_text(chosen(table, path, {key: columns[key] for key in pair}), pair)
    return [Pair(prompt or "", target or "", where) for where, (prompt, target) in table.rows(*pair)]


def as_pairs(rows: Iterable[Pair | Chat], alone: bool) -> Iterator[Pair]:
    """Conversations as prompts and targets; alone: without roles."""
    for row in rows:
        yield Pair(row.prompt(alone), row.answer, row.where) if isinstance(row, Chat) else row


def distinct(pairs: Iterable[Pair], options: TextOptions, dropped: Dropped) -> list[Pair]:
    """The pairs; repeated ones, and those with an empty cell, are noted and left out.

    ValueError for targets with blanks at their ends unless `strip`.
    """
    found: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        prompt, target = pair.prompt, pair.target.strip() if options.strip else pair.target
        if not (prompt.strip() and target.strip()):
            dropped.add(f"empty {'target' if prompt.strip() else 'prompt'}", pair.where, (prompt + target)[:SHOWN])
        elif (prompt, target) in found:
            dropped.add("pair that comes again", pair.where, prompt[:SHOWN])
        else:
            found[prompt, target] = Pair(prompt, target, pair.where)
    _refuse_blanks([pair for pair in found.values() if pair.target != pair.target.strip()])
    return list(found.values())


def _refuse_blanks(padded: Sequence[Pair]) -> None:
    if padded:
        raise ValueError(
            f"{padded[0].where}: target has blanks or line breaks at its ends, which the model would learn to write "
            f"({len(padded):,} such rows): cut them off with strip=true, or in the file"
        )


def without(train: Sequence[Pair], test: Sequence[Pair], dropped: Dropped) -> list[Pair]:
    """The training pairs whose prompt is in no test pair; the others are noted."""
    held_out = {pair.prompt for pair in test}
    for pair in train:
        if pair.prompt in held_out:
            dropped.add("training prompt that is in test, too", pair.where, pair.prompt[:SHOWN])
    return [pair for pair in train if pair.prompt not in held_out]


def split_prompts(pairs: Sequence[Pair], options: TextOptions) -> dict[str, list[Pair]]:
    """`test_size` prompts (a tenth if None) for testing, with all their targets, and the others for training."""
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
    size = max(1, len(prompts) // 10) if options.test_size is None else options.test_size
    if not 1 <= size < len(prompts):
        raise ValueError(f"test_size={size}: there are {len(prompts)} prompts, and both splits need some")
    drawn = {prompts[i] for i in np.random.RandomState(options.seed).permutation(len(prompts))[:size]}
    return {
        "train": [pair for pair in pairs if pair.prompt not in drawn],
        "test": [pair for pair in pairs if pair.prompt in drawn],
    }


def make_rows(splits: dict[str, list[Pair]], options: TextOptions) -> dict[str, list[Row]]:
    """Rows in random order: the prompt is the query, the target the one docID. An id is the place in the file."""
    rows = {}
    for split, pairs in splits.items():
        order = np.random.RandomState(options.seed).permutation(len(pairs))
        rows[split] = [_row(pairs[i]) for i in order]
    return rows


def _row(pair: Pair) -> Row:
    return {"query_id": pair.where, "query": pair.prompt, "docs": [{"docid": pair.target}]}
