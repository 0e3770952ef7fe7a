"""The field's metrics from end to end: qrels imported, a model evaluated, its TREC files scored by ir_measures."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from ir_measures import AP, RR, P, R, nDCG

from tests.support.commands import run
from tests.support.made_datasets import write
from tests.support.small_data import SYLLABLES, TINY, make_rows

Cli = Callable[..., tuple[int, str, str]]
NAMES = {
    "graded_ndcg": nDCG,
    "graded_ndcg@3": nDCG @ 3,
    "mrr": RR,
    "map": AP,
    "precision@3": P @ 3,
    "standard_recall@3": R @ 3,
}
ASKED = f"eval.metrics=[{','.join(NAMES)},kendall_tau]"


def made(root: Path, irrelevant: str) -> Path:
    """A data set out of qrels with grades from -1 to 3, of queries whose documents have texts."""
    rng, names = random.Random(3), {f"{a}{b}" for a in SYLLABLES for b in SYLLABLES}
    documents = [{"_id": name, "text": f"about {name} {rng.choice(SYLLABLES)}"} for name in sorted(names)]
    queries = [{"_id": f"q{i}", "text": f"which {rng.choice(SYLLABLES)}"} for i in range(24)]
    lines = []
    for query in queries:
        for name in rng.sample(sorted(names), 7):
            lines.append(f"{query['_id']} 0 {name} {rng.choice([0, 0, 1, 2, 3])}\n")
        lines.append(f"{query['_id']} 0 {rng.choice(lines).split()[2]}x 1\n")  # a document without text
    files = {
        "qrels": write(root / "qrels.txt", "".join(lines)),
        "queries": write(root / "queries.jsonl", queries),
        "documents": write(root / "documents.jsonl", documents),
    }
    words = [f"{key}={path}" for key, path in files.items()]
    assert run("prepare", "trec", *words, f"out={root / 'data'}", f"irrelevant={irrelevant}", "test_size=8") == 0
    return root / "data"


def words(data: Path, *own: str) -> list[str]:
    basic = ["recipe=wordnet_alpha2,small", f"data.path={data}", f"output={data.parent / 'run'}", *TINY]
    return list({word.partition("=")[0]: word for word in [*basic, *own]}.values())


@pytest.mark.parametrize("irrelevant", ["last", "negatives"])
def test_metrics_json_is_what_ir_measures_finds_in_our_files(irrelevant: str, tmp_path: Path, cli: Cli) -> None:
    data = made(tmp_path, irrelevant)
    status, out, _ = cli("evaluate", *words(data, ASKED))
    assert status == 0
    directory = tmp_path / "run" / "eval"
    metrics = json.loads((directory / "metrics.json").read_text())
    assert (metrics["qrels"], metrics["gains"]) == ("grades", "linear")
    theirs = ir_measures.calc_aggregate(
        list(NAMES.values()),
        ir_measures.read_trec_qrels(str(directory / "qrels.txt")),
        ir_measures.read_trec_run(str(directory / "run.txt")),
    )
    assert {name: metrics[name] for name in NAMES} == pytest.approx({name: theirs[NAMES[name]] for name in NAMES})
    assert all(0 < metrics[name] < 1 for name in NAMES)
    grades = {line.split()[3] for line in (directory / "qrels.txt").read_text().splitlines()}
    assert grades == {"0", "1", "2", "3"}, "the user's own"
    assert list(metrics["references"]) == ["random order", "input order", "BM25"]
    lines = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("|")]
    assert lines == ["data/test", "---" + lines[1][3:], "run", "95% interval", *metrics["references"]]
    assert "graded nDCG@3 (↑)" in out and "Kendall τ (↑)" in out
    random_ndcg = metrics["references"]["random order"]["ndcg"]
    assert f"a random order of these lists has {100 * random_ndcg:.2f}" in out
    summary = (directory / "summary.md").read_text()
    assert "whose relevances are the data's grades" in summary
    assert "Graded nDCG: on the data's grades, gains linear." in summary
    assert "BM25 over the documents' texts: bm25s" in summary


def test_gains_and_relevance_are_settings(tmp_path: Path, cli: Cli) -> None:
    data = made(tmp_path, "last")
    own = ["eval.metrics=[graded_ndcg,map]", "eval.gains=3:1,2:0.1,1:0.01,0:0", "eval.relevant_above=2"]
    assert cli("evaluate", *words(data, *own))[0] == 0
    directory = tmp_path / "run" / "eval"
    metrics = json.loads((directory / "metrics.json").read_text())
    measures = [nDCG(gains={3: 100, 2: 10, 1: 1}), AP(rel=3)]
    theirs = ir_measures.calc_aggregate(
        measures,
        ir_measures.read_trec_qrels(str(directory / "qrels.txt")),
        ir_measures.read_trec_run(str(directory / "run.txt")),
    )
    assert [metrics["graded_ndcg"], metrics["map"]] == pytest.approx([theirs[measure] for measure in measures])
    assert (metrics["gains"], metrics["relevant_above"]) == ("3:1,2:0.1,1:0.01,0:0", 2.0)
    summary = (directory / "summary.md").read_text()
    assert "gains 3:1,2:0.1,1:0.01,0:0." in summary
    assert "Relevant: documents with a grade above 2." in summary


def write_rows(data: Path, *docs: list[dict[str, Any]]) -> Path:
    rows = [{"query_id": f"g{i}", "query": "ba", "docs": own} for i, own in enumerate(docs)]
    write(data / "train.jsonl", make_rows(8, 0))
    write(data / "test.jsonl", rows)
    write(data / "manifest.json", "{}")
    return data


GRADED = [{"docid": "ba", "grade": 3}, {"docid": "do", "grade": 0.5}]
BAD = {
    "unknown metric": (["eval.metrics=[ndgc]"], "error: metric 'eval.metrics=ndgc' does not exist. Did you mean"),
    "their name for a metric": (["eval.metrics=[nDCG@10]"], "Did you mean 'graded_ndcg'?"),
    "text in place of a list": (["eval.metrics=map"], "eval.metrics: "),
    "unknown gains": (["eval.metrics=[graded_ndcg]", "eval.gains=log"], "eval.gains=log: 'log' is not a grade and its"),
    "gains without a metric": (["eval.gains=linear"], "eval.gains=linear has no effect without graded_ndcg; add it"),
    "relevance without a metric": (
        ["eval.metrics=[kendall_tau]", "eval.relevant_above=1"],
        "eval.relevant_above=1.0 has no effect without a metric of relevant documents; add one: eval.metrics=[map]",
    ),
    "relevance that is no number": (
        ["eval.metrics=[map]", "eval.relevant_above=.nan"],
        "eval.relevant_above=nan must be a finite number",
    ),
    "a grade that the gains do not name": (
        ["eval.metrics=[graded_ndcg]", "eval.gains=3:1,0:0"],
        "query 'g0' of data/test: grade 0.5 is none of those that eval.gains=3:1,0:0 names (0, 3); add it",
    ),
    "gains without grades": (
        ["eval.metrics=[graded_ndcg@5]", "eval.gains=exponential"],
        "eval.metrics=graded_ndcg@5 needs grades, and query 'g1' of data/test has none: give its documents a 'grade'",
    ),
}


@pytest.mark.parametrize(("own", "said"), BAD.values(), ids=BAD)
def test_what_is_refused(own: list[str], said: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoical.build.model.load_model", lambda *_: pytest.fail("a model was loaded"))
    data = write_rows(tmp_path / "data", GRADED, [{"docid": "ki"}])
    status, out, err = cli("evaluate", *words(data, *own))
    assert (status, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert said in line
    assert "Traceback" not in err


def test_fractional_grades_are_metrics_and_not_qrels(tmp_path: Path, cli: Cli) -> None:
    """trec_eval reads whole numbers alone, so that qrels.txt keeps the ranks and says so."""
    data = write_rows(tmp_path / "data", GRADED, [*GRADED, {"docid": "ki"}])
    assert cli("evaluate", *words(data, "eval.metrics=[graded_ndcg]"))[0] == 0
    directory = tmp_path / "run" / "eval"
    assert json.loads((directory / "metrics.json").read_text())["qrels"] == "ranks"
    assert (directory / "qrels.txt").read_text().splitlines()[:2] == ["g0 0 ba 2", "g0 0 do 1"]
    line = json.loads((directory / "per_query.jsonl").read_text().splitlines()[1])
    assert line["grades"] == [3.0, 0.5, None]
    assert "whose relevances are n + 1 − r" in (directory / "summary.md").read_text()


def test_training_can_follow_a_metric_that_was_asked_for(tmp_path: Path, cli: Cli) -> None:
    data = made(tmp_path, "last")
    own = ["eval.metrics=[map,graded_ndcg@3]", "training.eval_steps=3", "training.metric_for_best_model=map"]
    assert cli("train", *words(data, *own))[0] == 0
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (evaluated,) = [row for row in logged if "eval_ndcg" in row]
    assert {"eval_map", "eval_graded_ndcg@3"} <= evaluated.keys()
