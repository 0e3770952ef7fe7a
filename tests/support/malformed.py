"""Malformed inputs, made from a seed: settings, data, checkpoints, streams, results. `malformed_runs` has further ones.

Everything is written below one folder, and every path in a command lies in it.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoical.common.options import keys_of
from stoical.config.recipe import Recipe

VALUES = (  # what people and programs leave behind in a setting
    *("", "null", "nan", "inf", "-1", "0", "1e400", "9" * 400, "[]", "{}", "[1, [2", "{a: 1}", "{a: {b: 1}}", "true"),
    *("x" * 5000, "${oc.env:HOME}", "${nope}", "é\u200b", "\ud800", "a\\b", "'", '"', "None", "1,2", "0x10", "*", "%"),
)
JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    1e308,
    10**400,
    "",
    " ",
    "\ud800",
    "\x00",
    [],
    {},
    [[]],
    {"a": [None]},
    "x" * 70000,
)
TEXTS = (
    b"",
    b"null",
    b"[]",
    b"{",
    b'"',
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"[" * 20000,
    b"\x00" * 50,
    b"1" * 500,
    b"PK\x03\x04",
)


@dataclass(frozen=True)
class Case:
    """A command line whose input is malformed; `wrong`: it must be refused, and not only survived."""

    kind: str
    words: tuple[str, ...]
    wrong: bool


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes with a few of them changed, a piece cut out or doubled, or something else in their place."""
    how = rng.randrange(5)
    if how == 0 or not data:
        return rng.choice(TEXTS)
    at = rng.randrange(len(data))
    if how == 1:
        return data[:at]
    if how == 2:
        return data[:at] + rng.randbytes(rng.randint(1, 8)) + data[at:]
    until = min(len(data), at + rng.randint(1, 40))
    return data[:at] + data[until:] if how == 3 else data[:until] + data[at:]


def spoiled(value: Any, rng: random.Random) -> Any:
    """A JSON value with something else in one place."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(sorted(value))
        if rng.random() < 0.2:
            return {name: each for name, each in value.items() if name != key}
        return value | {key: spoiled(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], spoiled(value[at], rng), *value[at + 1 :]]
    return rng.choice(JUNK)


@dataclass(frozen=True)
class Maker:
    """Makes cases in a folder that holds a dataset (`data`) and a run (`run`) with an evaluation."""

    folder: Path

    def case(self, seed: int, kinds: Sequence[Kind] = ()) -> Case:
        """The case of a seed, its files written: of `kinds`, or of those below."""
        rng = random.Random(seed)
        own = self.folder / f"case-{seed}"
        own.mkdir()
        return rng.choice(kinds or KINDS)(self, rng, own)

    def damaged_checkpoint(self, rng: random.Random, own: Path) -> tuple[Path, bool]:
        """A checkpoint with damage in one of its files, and whether its sums tell."""
        copy = self._copy(own)
        path = rng.choice(sorted(path for path in copy.iterdir() if path.name != "README.md"))
        before = path.read_bytes()
        path.write_bytes(damaged(before, rng))
        return copy, path.read_bytes() != before and path.name != "resume.json"

    def damaged_data(self, rng: random.Random, own: Path) -> Path:
        """A dataset with damage in one of its files, or in one of its rows' values."""
        data = Path(shutil.copytree(self.folder / "data", own / "data"))
        if rng.random() < 0.5:
            path = rng.choice(sorted(data.iterdir()))
            path.write_bytes(damaged(path.read_bytes(), rng))
            return data
        path = data / rng.choice(["train.jsonl", "test.jsonl"])
        lines = path.read_text().splitlines()
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(spoiled(json.loads(lines[at]), rng))
        path.write_text("\n".join(lines) + "\n")
        return data

    def setting(self, rng: random.Random, own: Path) -> Case:
        """One setting of a recipe with a value of another kind."""
        key = rng.choice([each.name for each in keys_of(Recipe)])
        return Case("setting", ("recipes", "show", "wordnet_alpha2", f"{key}={rng.choice(VALUES)}"), False)

    def rows(self, rng: random.Random, own: Path) -> Case:
        """A split with damage in its bytes, or in one of its values."""
        lines = (self.folder / "data" / "train.jsonl").read_bytes().splitlines(keepends=True)
        at = rng.randrange(len(lines))
        if rng.random() < 0.5:
            lines[at] = json.dumps(spoiled(json.loads(lines[at]), rng)).encode() + b"\n"
        else:
            lines[at] = damaged(lines[at], rng)
        (own / "train.jsonl").write_bytes(b"".join(lines))
        return Case("rows", ("validate", str(own / "train.jsonl")), False)

    def manifest(self, rng: random.Random, own: Path) -> Case:
        """A dataset whose manifest is damaged."""
        data = Path(shutil.copytree(self.folder / "data", own / "data"))
        path = data / "manifest.json"
        path.write_bytes(damaged(path.read_bytes(), rng))
        return Case("manifest", ("validate", str(data)), False)

    def _copy(self, own: Path) -> Path:
        (source,) = (self.folder / "run").glob("checkpoint-*")
        return Path(shutil.copytree(source, own / source.name))

    def checkpoint(self, rng: random.Random, own: Path) -> Case:
        """A checkpoint with damage in one of its files, as its sums tell."""
        copy, wrong = self.damaged_checkpoint(rng, own)
        return Case("checkpoint", ("evaluate", f"checkpoint={copy}", f"output={own / 'eval'}"), wrong)

    def truncated_checkpoint(self, rng: random.Random, own: Path) -> Path:
        """Weights, config, tokenizer or recipe cut short in a directory that has no sums."""
        copy = self._copy(own)
        (copy / "resume.json").unlink()
        path = copy / rng.choice(["model.safetensors", "config.json", "tokenizer.json", "recipe.yaml"])
        data = path.read_bytes()
        path.write_bytes(data[: rng.randrange(len(data) - 1) if path.suffix != ".yaml" else 0])
        return copy

    def truncated(self, rng: random.Random, own: Path) -> Case:
        """A checkpoint without sums, a file of which is cut short, to be evaluated."""
        copy = self.truncated_checkpoint(rng, own)
        return Case("truncated", ("evaluate", f"checkpoint={copy}", f"output={own / 'eval'}"), True)

    def stream(self, rng: random.Random, own: Path) -> Case:
        """A line for the ranker that is none."""
        line = {"query": "ba", "docs": ["ba", {"docid": "do", "text": "x"}, "ki"]}
        if rng.random() < 0.5:
            (own / "in.jsonl").write_text(json.dumps(spoiled(line, rng)) + "\n")
        else:
            (own / "in.jsonl").write_bytes(damaged(json.dumps(line).encode(), rng) + b"\n")
        words = (f"checkpoint={self.folder / 'run'}", f"input={own / 'in.jsonl'}", f"output={own / 'out.jsonl'}")
        return Case("stream", ("rank", *words, f"on_error={rng.choice(['stop', 'record'])}"), False)

    def results(self, rng: random.Random, own: Path) -> Case:
        """An evaluation with damage in one of its files."""
        kept = next(path.parent for path in (self.folder / "run").rglob("metrics.json"))
        copy = Path(shutil.copytree(kept, own / "eval"))
        path = copy / rng.choice(["metrics.json", "per_query.jsonl"])
        path.write_bytes(damaged(path.read_bytes(), rng))
        return Case("results", ("compare", str(copy), str(kept)), False)

    def template(self, rng: random.Random, own: Path) -> Case:
        """A prompt template that is none."""
        text = "prompt: 'Q {query} D {docs} A'\ndoc: '{docid}'\ndelimiter: ' | '\n"
        (own / "t.yaml").write_bytes(damaged(text.encode(), rng))
        data = self.folder / "data"
        words = ("recipe=wordnet_alpha2,small", "tokenizer.vocab_size=300", f"prompt.template={own / 't.yaml'}")
        return Case("template", ("validate", str(data), *words), False)

    def recipe_file(self, rng: random.Random, own: Path) -> Case:
        """A recipe of one's own that is damaged."""
        text = "loss:\n  item: fractional\n  alpha: 2.0\ntraining:\n  max_steps: 10\n"
        (own / "mine.yaml").write_bytes(damaged(text.encode(), rng))
        return Case("recipe", ("recipes", "show", str(own / "mine.yaml")), False)

    def table(self, rng: random.Random, own: Path) -> Case:
        """Judged pairs in a table that is damaged."""
        text = "query,document,label\nred shoes,Shoe A,3\nred shoes,Shoe B,1\nhat,Hat C,2\n"
        (own / "pairs.csv").write_bytes(damaged(text.encode(), rng))
        words = (f"input={own / 'pairs.csv'}", f"out={own / 'out'}")
        return Case("table", ("prepare", "pairs", *words), False)

    def trec(self, rng: random.Random, own: Path) -> Case:
        """Judgements, queries or documents of TREC's kinds, one of them damaged."""
        files = {"qrels": "q1 0 d1 2\nq1 0 d2 0\nq2 0 d2 1\n", "queries": "q1\tred shoes\nq2\that\n"}
        files["documents"] = "d1\tShoe A\nd2\tHat B\n"
        broken = rng.choice(sorted(files))
        for name, text in files.items():
            (own / f"{name}.tsv").write_bytes(damaged(text.encode(), rng) if name == broken else text.encode())
        words = (f"{name}={own / f'{name}.tsv'}" for name in files)
        return Case("trec", ("prepare", "trec", *words, f"out={own / 'out'}"), False)

    def text(self, rng: random.Random, own: Path) -> Case:
        """Plain text to train on, with something else in a line."""
        line = json.dumps(spoiled({"prompt": "a", "target": "b"}, rng)).encode()
        (own / "in.jsonl").write_bytes((damaged(line, rng) if rng.random() < 0.5 else line) + b"\n")
        return Case(
            "text", ("prepare", "text", f"input={own / 'in.jsonl'}", f"out={own / 'out'}", "test_size=0"), False
        )


Kind = Callable[[Maker, random.Random, Path], Case]
KINDS: tuple[Kind, ...] = (
    *(Maker.setting, Maker.rows, Maker.manifest, Maker.checkpoint, Maker.truncated, Maker.stream, Maker.results),
    *(Maker.template, Maker.recipe_file, Maker.table, Maker.trec, Maker.text),
)
