"""What makers of datasets and `stoical validate` load: torch for matching pursuit alone, scikit-learn for docIDs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stoical.commands.prepare import MAKERS
from stoical.common.places import data_prep
from tests.support.imported import imports_of
from tests.support.root import ROOT

HEAVY = {"accelerate", "datasets", "matplotlib", "nltk", "peft", "sklearn", "torch", "transformers", "wandb"}
DOCIDS = "prepare docids input=beir/corpus.jsonl dimensions=2 components=3 nonzeros=2"
LOADED = {  # command -> what of the above it loads that those before it did not, all in one process
    **{f"prepare {name} --help": set() for name in MAKERS},
    "prepare wordnet subtree=mammal.n.01 test_size=20 out=wordnet": set(),
    "prepare chains out=chains": set(),
    "prepare beir source=beir train=test out=from_beir": set(),
    "prepare trec qrels=qrels queries=beir/queries.jsonl documents=beir/corpus.jsonl out=from_trec": set(),
    "prepare pairs input=pairs.jsonl out=from_pairs": set(),
    "prepare text input=text.jsonl out=from_text": set(),
    "validate wordnet": set(),
    "validate rows.jsonl": set(),
    f"{DOCIDS} docids=residual out=residual": {"sklearn"},
    f"{DOCIDS} out=sparse": {"torch"},
}


def write_inputs(directory: Path) -> None:
    """Small files in the layouts of BEIR, TREC, pairs, texts and rows."""
    numbers = range(30)
    (directory / "beir" / "qrels").mkdir(parents=True)
    files: dict[str, list[dict[str, Any]]] = {
        "beir/corpus.jsonl": [{"_id": f"d{i}", "text": f"text {i} of all things"} for i in numbers],
        "beir/queries.jsonl": [{"_id": f"q{i}", "text": f"query {i}"} for i in numbers],
        "pairs.jsonl": [{"query": f"q{i}", "document": f"d{i}", "score": 1} for i in numbers],
        "text.jsonl": [{"prompt": f"q{i}", "target": f"d{i}"} for i in numbers],
        "rows.jsonl": [{"query_id": f"q{i}", "query": "q", "docs": [{"docid": "d"}]} for i in numbers],
    }
    for name, rows in files.items():
        (directory / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = "".join(f"q{i}\td{i}\t1\n" for i in numbers)
    (directory / "beir" / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    (directory / "qrels").write_text("".join(f"q{i} 0 d{i} 1\n" for i in numbers))


def test_makers_and_validation_load_what_they_use(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    _, *found = imports_of([f"python import os; os.chdir({str(tmp_path)!r})", *LOADED])
    for (command, new), (code, loaded, said) in zip(LOADED.items(), found, strict=True):
        assert code == 0, said
        assert {*loaded} & HEAVY == new, command


def test_a_checkout_prepares_with_its_own_makers() -> None:
    """An interpreter may have another checkout's installed in editable mode."""
    for module in MAKERS.values():
        assert Path(str(data_prep(module).__file__)).is_relative_to(ROOT / "data_prep")
