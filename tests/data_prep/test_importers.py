"""stoical prepare beir, trec and pairs: lists by hand, and what bad input is told."""

from __future__ import annotations

from pathlib import Path

import datasets
import ir_measures
import pytest

from data_prep.importers import trec
from stoical.data.dataset import load_split
from stoical.data.files import load_manifest
from stoical.docids.table import DocIDTable
from tests.support.commands import run
from tests.support.made_datasets import dropped, lists, refused, write

CORPUS = [
    {"_id": "d1", "title": "Deer", "text": "ruminants"},
    {"_id": "d2", "title": "", "text": "mammals"},
    {"_id": "d3", "title": "Cats", "text": ""},
    {"_id": "d4", "title": "Deer", "text": "again"},
    {"_id": "d5", "title": None, "text": ""},
    {"_id": "d6", "title": "Unread", "text": "by any query"},
]
QUERIES = [{"_id": f"q{n}", "text": f"query {n}"} for n in range(1, 5)]
TRAIN = "q1 d1 1\nq1 d2 2\nq1 d3 0\nq2 d3 1\n"
TEST = "q3 d1 1\nq3 d2 1\nq3 d3 2\n"


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    root = tmp_path / "beir"
    write(root / "corpus.jsonl", CORPUS)
    write(root / "queries.jsonl", QUERIES)
    for split, rows in (("train", TRAIN), ("test", TEST)):
        write(root / f"qrels/{split}.tsv", "query-id corpus-id score\n".replace(" ", "\t") + rows.replace(" ", "\t"))
    return root


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    queries, documents = write(tmp_path / "queries.jsonl", QUERIES), write(tmp_path / "documents.jsonl", CORPUS)
    return [f"queries={queries}", f"documents={documents}"]


def test_beir_becomes_a_dataset(beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("prepare", "beir", f"source={beir}", f"out={out}", "licence=CC0") == 0
    assert lists(out) == {
        "q1": ({"d2": 1, "d1": 2}, ["d3"]),
        "q2": ({"d3": 1}, []),
        "q3": ({"d3": 1, "d1": 2, "d2": 2}, []),
    }
    assert {row.query_id for row in load_split(out, "test")} == {"q3"}
    documents = {doc.docid: doc.text for doc in load_split(out, "test")[0].docs}
    assert documents == {"d1": "Deer ruminants", "d2": "mammals", "d3": "Cats"}
    manifest = load_manifest(out)
    assert manifest["splits"]["train"] == {"queries": 2, "pairs": 3, "mean_docs": 1.5, "negatives": 1}
    assert (manifest["licence"], manifest["seed"], dropped(out)) == ("CC0", 0, [])
    assert manifest["source"] == {
        "corpus": "corpus.jsonl", "queries": "queries.jsonl", "qrels_train": "train.tsv", "qrels_test": "test.tsv"
    }  # fmt: skip
    assert "1 queries have one document" in capsys.readouterr().out
    assert str(tmp_path) not in (out / "manifest.json").read_text()
    assert DocIDTable.load(out / "items.parquet").text_of == documents


def grades(out: Path) -> dict[str, dict[str, float | None]]:
    rows = [*load_split(out, "train"), *load_split(out, "test")]
    return {row.query_id: {doc.docid: doc.grade for doc in (*row.docs, *row.negatives)} for row in rows}


def test_the_users_grades_are_kept(beir: Path, tmp_path: Path) -> None:
    assert run("prepare", "beir", f"source={beir}", f"out={tmp_path / 'out'}") == 0
    assert grades(tmp_path / "out") == {
        "q1": {"d1": 1, "d2": 2, "d3": 0},
        "q2": {"d3": 1},
        "q3": {"d1": 1, "d2": 1, "d3": 2},
    }


@pytest.mark.parametrize("irrelevant", ["last", "negatives"])
def test_what_a_run_retrieved_and_nobody_judged_has_no_grade(irrelevant: str, texts: list[str], tmp_path: Path) -> None:
    """Its score is not a grade; a judgement that is not relevant keeps its own, retrieved or not."""
    qrels = write(tmp_path / "qrels", "q1 0 d1 3\nq1 0 d2 1\nq1 0 d3 -1\nq2 0 d3 2\n")
    retrieved = write(tmp_path / "run", "q1 Q0 d4 1 9.5 tag\nq1 Q0 d2 2 8.5 tag\nq2 Q0 d1 1 7.0 tag\n")
    own = [f"qrels={qrels}", f"run={retrieved}", "relevant_above=1", f"irrelevant={irrelevant}", "test_size=1"]
    assert run("prepare", "trec", *own, *texts, f"out={tmp_path / 'out'}") == 0
    assert grades(tmp_path / "out") == {"q1": {"d1": 3, "d4": None, "d2": 1, "d3": -1}, "q2": {"d3": 2, "d1": None}}
    alone = [f"run={retrieved}", "test_size=1", f"out={tmp_path / 'alone'}"]
    assert run("prepare", "trec", *alone, *texts) == 0
    assert grades(tmp_path / "alone") == {"q1": {"d4": None, "d2": None}, "q2": {"d1": None}}


def test_the_same_input_gives_the_same_bytes(beir: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run("prepare", "beir", f"source={beir}", f"out={tmp_path / name / 'out'}") == 0
    for path in (tmp_path / "one" / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "out" / path.name).read_bytes()


def test_beir_irrelevant_documents_at_the_end_of_the_list(beir: Path, tmp_path: Path) -> None:
    assert run("prepare", "beir", f"source={beir}", f"out={tmp_path / 'out'}", "irrelevant=last") == 0
    assert lists(tmp_path / "out")["q1"] == ({"d2": 1, "d1": 2, "d3": 3}, [])


def test_beir_one_file_of_qrels_is_split_by_the_seed(beir: Path, tmp_path: Path) -> None:
    words = [f"source={beir}", "train=train", "test=train"]
    assert run("prepare", "beir", *words, f"out={tmp_path / 'out'}", "test_size=1") == 0
    assert [len(load_split(tmp_path / "out", split)) for split in ("train", "test")] == [1, 1]


def test_titles_as_docids_and_what_has_none(beir: Path, tmp_path: Path) -> None:
    """d1 and d4 share a title; d2 and d5 have none."""
    write(
        beir / "qrels/test.tsv", "query-id\tcorpus-id\tscore\n" + "".join(f"q3\td{n}\t{9 - n}\n" for n in range(1, 6))
    )
    assert run("prepare", "beir", f"source={beir}", f"out={tmp_path / 'out'}", "docids=title", "text=none") == 0
    assert lists(tmp_path / "out")["q3"] == ({"Deer": 1, "Cats": 2}, [])
    assert dropped(tmp_path / "out") == [
        ("document without docID", f"{beir}/corpus.jsonl:2", "d2 of query q1"),
        ("document without docID", f"{beir}/corpus.jsonl:2", "d2 of query q3"),
        ("docID again in a list", f"{beir}/corpus.jsonl:4", "Deer of d4 of query q3"),
        ("document without docID", f"{beir}/corpus.jsonl:5", "d5 of query q3"),
    ]


def test_a_list_whose_documents_all_share_a_docid_is_left_out(beir: Path, tmp_path: Path) -> None:
    write(beir / "qrels/train.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td4\t1\nq2\td5\t1\nq4\td3\t1\n")
    assert run("prepare", "beir", f"source={beir}", f"out={tmp_path / 'out'}", "docids=title", "text=none") == 0
    assert lists(tmp_path / "out").keys() == {"q3", "q4"}
    assert [reason for reason, _, _ in dropped(tmp_path / "out")] == [
        "docID again in a list",
        "query whose documents all share a docID",
        "document without docID",
        "query without a document that can be used",
        "document without docID",
    ]


def test_docids_by_a_table(beir: Path, tmp_path: Path) -> None:
    table = DocIDTable(["d1", "d2"], ["[1,2]", "[3]"], ["", ""])
    table.save(tmp_path / "items.parquet")
    words = [f"source={beir}", f"docids={tmp_path / 'items.parquet'}"]
    assert run("prepare", "beir", *words, f"out={tmp_path / 'out'}") == 0
    assert lists(tmp_path / "out") == {"q1": ({"[3]": 1, "[1,2]": 2}, []), "q3": ({"[1,2]": 1, "[3]": 1}, [])}
    assert len(load_manifest(tmp_path / "out")["version"]["docids"]) == 64


def test_what_is_unknown_or_comes_again_is_listed(beir: Path, tmp_path: Path) -> None:
    with (beir / "qrels/train.tsv").open("a") as file:
        file.write("q9\td1\t1\nq1\td9\t1\nq1\td1\t1\nq1\td2\t0\nq4\td1\t0\nq3\td1\t1\nq2\td5\t1\n")
    with (beir / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "d1", "text": "again"}\n')
    assert run("prepare", "beir", f"source={beir}", f"out={tmp_path / 'out'}") == 0
    assert lists(tmp_path / "out").keys() == {"q1", "q2", "q3"}
    assert sorted(dropped(tmp_path / "out")) == [
        ("document id again", f"{beir}/corpus.jsonl:7", "d1"),
        ("document without text", "train.tsv:7", "d9"),
        ("document without text=both", f"{beir}/corpus.jsonl:5", "d5 of query q2"),
        ("pair again", "train.tsv:8", "q1 d1 1; first at train.tsv:2"),
        ("pair again, with another grade", "train.tsv:9", "q1 d2 0; first at train.tsv:3"),
        ("query without a relevant document", "train.tsv:10", "q4"),
        ("query without text", "train.tsv:6", "q9"),
        ("training query that is in test, too", "train.tsv:11", "q3"),
    ]


def test_bad_beir_input(beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"source={beir}", f"out={tmp_path / 'out'}"]
    head = "query-id\tcorpus-id\tscore\n"
    for content, message in [
        ("", "train.tsv has no column query-id, corpus-id, score (it has: none)"),
        (head, "train.tsv holds no rows"),
        ("query-id\tscore\nq1\t1\n", "train.tsv has no column corpus-id (it has: query-id, score)"),
        (head + "q1\td1\thigh\n", "train.tsv:2: score must be a number, got 'high'"),
        (head + "q1\td1\n", "train.tsv:2: 2 cells, but the header has 3"),
        (head + "\td1\t1\n", "train.tsv:2: query-id and corpus-id must not be empty"),
    ]:
        write(beir / "qrels/train.tsv", content)
        assert message in refused(capsys, "beir", *words)
    write(beir / "qrels/train.tsv", head + "q9\td1\t1\n")
    assert "no query of train is left" in refused(capsys, "beir", *words)
    (beir / "qrels/train.tsv").unlink()
    assert "has no qrels/train.tsv; train= and test= choose among test.tsv" in refused(capsys, "beir", *words)
    assert "test_size=1: there are 1 queries" in refused(capsys, "beir", *words, "train=test", "test_size=1")
    write(beir / "queries.jsonl", '{"_id": "q3"}\n')
    assert "queries.jsonl:1 needs _id or id, and text" in refused(capsys, "beir", *words, "train=test")
    (beir / "corpus.jsonl").unlink()
    assert "has no corpus.jsonl" in refused(capsys, "beir", *words, "train=test")


def test_settings_that_cannot_be(beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"source={beir}", f"out={tmp_path / 'out'}"]
    for word, message in [
        ("seed=-1", "seed=-1: must be from 0"),
        ("max_irrelevant=-1", "max_irrelevant=-1: must be at least 0"),
        ("docids=nowhere.parquet", "docids=nowhere.parquet: neither id, nor title, nor a file"),
        ("test_size=1", "test_size=1 has no effect, as the source has a test split"),
        ("irrelevant=first", "irrelevant: Invalid value 'first', expected one of ['negatives', 'last']"),
        ("source=", "source"),
    ]:
        kept = [each for each in words if not word.startswith(each.partition("=")[0] + "=")]
        assert message in refused(capsys, "beir", *kept, word)


QRELS = "q1 0 d1 1\nq1 0 d2 2\nq1 0 d3 0\nq2 0 d3 1\n\nq3 0 d1 1\n"
RUN = "q1 Q0 d4 1 9.5 tag\nq1 Q0 d1 2 7 tag\nq1 Q0 d3 9 7 tag\nq4 Q0 d2 1 1e-3 tag\n"


def test_trec_qrels(tmp_path: Path, texts: list[str]) -> None:
    qrels = write(tmp_path / "qrels.txt", QRELS)
    assert run("prepare", "trec", f"qrels={qrels}", *texts, f"out={tmp_path / 'out'}", "test_size=1") == 0
    assert lists(tmp_path / "out") == {"q1": ({"d2": 1, "d1": 2}, ["d3"]), "q2": ({"d3": 1}, []), "q3": ({"d1": 1}, [])}
    read = [(each.query, each.document, each.grade) for each in trec.read_trec(qrels, trec.QRELS)]
    assert read == [(each.query_id, each.doc_id, each.relevance) for each in ir_measures.read_trec_qrels(str(qrels))]


def test_trec_run_alone_is_distilled(tmp_path: Path, texts: list[str]) -> None:
    path = write(tmp_path / "run.txt", RUN)
    words = [f"run={path}", *texts]
    assert run("prepare", "trec", *words, f"out={tmp_path / 'out'}") == 0
    assert lists(tmp_path / "out") == {"q1": ({"d4": 1, "d1": 2, "d3": 2}, []), "q4": ({"d2": 1}, [])}
    assert run("prepare", "trec", *words, f"out={tmp_path / 'short'}", "depth=2") == 0
    assert lists(tmp_path / "short")["q1"] == ({"d4": 1, "d1": 2}, [])
    rows = [row for split in ("train", "test") for row in load_split(tmp_path / "out", split)]
    found = {row.query_id: [doc.teacher_score for doc in row.docs] for row in rows}
    assert {key: sorted(scores, reverse=True) == scores for key, scores in found.items()} == {"q1": True, "q4": True}
    read = [(each.query, each.document, each.grade) for each in trec.read_trec(path, trec.RUN)]
    assert read == [(each.query_id, each.doc_id, each.score) for each in ir_measures.read_trec_run(str(path))]


def test_trec_run_and_qrels(tmp_path: Path, texts: list[str]) -> None:
    files = [f"qrels={write(tmp_path / 'qrels.txt', QRELS)}", f"run={write(tmp_path / 'run.txt', RUN)}"]
    assert run("prepare", "trec", *files, *texts, f"out={tmp_path / 'out'}", "irrelevant=last") == 0
    assert lists(tmp_path / "out")["q1"] == ({"d2": 1, "d1": 2, "d4": 3, "d3": 4}, [])
    assert dropped(tmp_path / "out") == [("query of the run without judgements", f"{tmp_path}/run.txt:4", "q4")]
    assert run("prepare", "trec", *files, *texts, f"out={tmp_path / 'one'}", "max_irrelevant=1") == 0
    assert lists(tmp_path / "one")["q1"] == ({"d2": 1, "d1": 2}, ["d4"])
    assert load_manifest(tmp_path / "one")["irrelevant_not_used"] == 1


def test_trec_test_qrels_and_no_documents(tmp_path: Path, texts: list[str]) -> None:
    qrels = [f"qrels={write(tmp_path / 'a.txt', QRELS)}", f"test_qrels={write(tmp_path / 'b.txt', 'q4 0 x9 1')}"]
    assert run("prepare", "trec", *qrels, texts[0], f"out={tmp_path / 'out'}") == 0
    (row,) = load_split(tmp_path / "out", "test")
    assert (row.query, row.docs[0].docid, row.docs[0].text) == ("query 4", "x9", None)


def test_bad_trec_input(tmp_path: Path, texts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "file.txt", f"out={tmp_path / 'out'}"
    for key, content, message in [
        ("qrels", "", "file.txt holds no rows"),
        ("qrels", "q1 0 d1 1\nq1 d1 1\n", "file.txt:2: expected 4 fields (query, iteration, document, grade), got 3"),
        ("qrels", "q1 0 d1 x\n", "file.txt:1: grade must be a number, got 'x'"),
        ("qrels", "q1\t0\td1\tnan\n", "file.txt:1: grade must be a number, got 'nan'"),
        ("run", "q1 0 d1 1\n", "file.txt:1: expected 6 fields (query, Q0, document, rank, score, tag), got 4"),
        ("run", "q1 Q0 d1 1 inf t\n", "file.txt:1: score must be a number, got 'inf'"),
    ]:
        assert message in refused(capsys, "trec", f"{key}={write(path, content)}", *texts, out)
    path.write_bytes(b"q1 0 d1 1\n\xff 0 d1 1\n")
    assert "file.txt:2: not UTF-8" in refused(capsys, "trec", f"qrels={path}", *texts, out)
    for words, message in [
        ([], "give qrels=FILE, run=FILE, or both"),
        ([f"run={path}", f"test_qrels={path}"], "test_qrels= goes with qrels="),
        ([f"qrels={path}", "depth=0"], "depth=0: must be at least 1"),
        ([f"qrels={path}", "depth=5"], "depth=5 has no effect with qrels= alone"),
        ([f"run={path}", "irrelevant=last"], "irrelevant=last has no effect with run= alone"),
        ([f"run={path}", "relevant_above=1"], "relevant_above=1.0 has no effect with run= alone"),
        ([f"qrels={tmp_path / 'nowhere'}"], "nowhere: no such file"),
    ]:
        assert message in refused(capsys, "trec", *words, *texts, out)
    assert "queries= is missing" in refused(capsys, "trec", f"qrels={path}", out)
    assert "docids=title needs documents=" in refused(capsys, "trec", f"qrels={path}", texts[0], "docids=title", out)


PAIRS = 'query,document,score\na,x,0.5\na,"y, z",2\nb,x,1\na,w,0\n b ,y  z,1\n'


def test_pairs_with_texts_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.csv", PAIRS)
    assert run("prepare", "pairs", f"input={path}", f"out={tmp_path / 'out'}") == 0
    assert lists(tmp_path / "out") == {"q1": ({"y, z": 1, "x": 2}, ["w"]), "q2": ({"x": 1, "y z": 1}, [])}


def test_pairs_keep_the_lines_of_their_texts(tmp_path: Path) -> None:
    """Code has lines. Texts that differ in blanks alone are one query, or one document."""
    code = "def f():\n    return 1"
    rows = [{"query": "q\n\na", "document": f" {code}\n", "pid": 1, "score": 1}]
    rows += [{"query": "q a", "document": "def f(): return 1", "pid": 1, "score": 1}]
    rows += [
        {"query": "q a", "document": "x", "pid": 2, "score": 2},
        {"query": "b", "document": "x", "pid": 2, "score": 1},
    ]
    path = write(tmp_path / "pairs.jsonl", rows)
    for options, docid in ((["id_column=pid"], "1"), ([], "def f(): return 1")):
        out = tmp_path / f"out{len(options)}"
        assert run("prepare", "pairs", f"input={path}", f"out={out}", *options) == 0
        found = {row.query: row.docs for split in ("train", "test") for row in load_split(out, split)}
        assert found.keys() == {"q\n\na", "b"}
        assert {doc.docid: doc.text for doc in found["q\n\na"]}[docid] == code
        assert dropped(out) == [("pair again", "pairs.jsonl:2", f"q1 {docid} 1; first at pairs.jsonl:1")]


@pytest.mark.parametrize("kind", ["parquet", "save_to_disk"])
def test_pairs_as_sentence_transformers_has_them(kind: str, tmp_path: Path) -> None:
    rows = [{"sentence1": q, "sentence2": d, "label": s, "split": 1} for q, d, s in (("a", "x", 0.2), ("b", "y", 0.9))]
    table = datasets.Dataset.from_list([*rows, {"sentence1": "a", "sentence2": "z", "label": 0.7, "split": 1}])
    path = tmp_path / ("pairs.parquet" if kind == "parquet" else "pairs")
    table.to_parquet(path) if kind == "parquet" else table.save_to_disk(path)
    assert run("prepare", "pairs", f"input={path}", f"out={tmp_path / 'out'}") == 0
    assert lists(tmp_path / "out") == {"q1": ({"z": 1, "x": 2}, []), "q2": ({"y": 1}, [])}


def test_pairs_with_ids_and_named_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.tsv", "q\td\tn\tgain\na\tx\t7\t1\na\ty\t8\t2\nb\tx\t7\t1\nb\tw\t7\t1\n")
    columns = ["query_column=q", "document_column=d", "score_column=gain", "id_column=n"]
    assert run("prepare", "pairs", f"input={path}", f"out={tmp_path / 'out'}", *columns) == 0
    assert lists(tmp_path / "out") == {"q1": ({"8": 1, "7": 2}, []), "q2": ({"7": 1}, [])}
    assert dropped(tmp_path / "out") == [("another text of the same document id", "pairs.tsv:5", "b / w / 7")]


def test_pairs_with_a_file_of_documents_and_one_of_test_pairs(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", "query,document,score\na,1,1\na,2,2\na,9,2\n")
    test = write(tmp_path / "test.csv", "query,document,score\nb,2,1\n")
    documents = write(tmp_path / "documents.csv", "id,title\n1,one\n2,two\n")
    words = [f"input={train}", f"test_input={test}", f"documents={documents}", "docids=title"]
    assert run("prepare", "pairs", *words, f"out={tmp_path / 'out'}") == 0
    assert lists(tmp_path / "out") == {"q1": ({"two": 1, "one": 2}, []), "q2": ({"two": 1}, [])}
    assert dropped(tmp_path / "out") == [("document without text", "train.csv:4", "9")]


MARKED = "query,document,score,w,q,t\na,x,1,2,0.5,-1.5\na,y,2,,0.5,3\na,w,0,4,,0\nb,x,1,0,,1\nb,y,1,1,,\n"
MARKS = ["weight_column=w", "query_weight_column=q", "teacher_column=t"]


def test_pairs_with_weights_and_a_teachers_scores(tmp_path: Path) -> None:
    """A negative keeps its score and has no weight; an empty cell is none."""
    path = write(tmp_path / "pairs.csv", MARKED)
    assert run("prepare", "pairs", f"input={path}", f"out={tmp_path / 'out'}", *MARKS) == 0
    rows = {row.query_id: row for split in ("train", "test") for row in load_split(tmp_path / "out", split)}
    first, second = rows["q1"], rows["q2"]
    assert (first.weight, second.weight) == (0.5, None)
    assert [(doc.docid, doc.weight, doc.teacher_score) for doc in first.docs] == [("y", None, 3.0), ("x", 2.0, -1.5)]
    assert [(doc.docid, doc.weight, doc.teacher_score) for doc in first.negatives] == [("w", None, 0.0)]
    assert [(doc.docid, doc.weight, doc.teacher_score) for doc in second.docs] == [("x", 0.0, 1.0), ("y", 1.0, None)]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("a,x,1,-2,1,0", "pairs.csv:2: the weight must not be negative, got -2; 0 leaves it out of the loss"),
        ("a,x,1,nan,1,0", "pairs.csv:2: the weight must be a number, got 'nan'"),
        ("a,x,1,1,1,high", "pairs.csv:2: the teacher's score must be a number, got 'high'"),
        ("a,x,1,1,1,0\na,y,1,1,2,0", "pairs.csv:3: query 'a' has weight 2, and 1 before"),
    ],
)
def test_bad_weights(cells: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "pairs.csv", f"query,document,score,w,q,t\n{cells}\n")
    assert message in refused(capsys, "pairs", f"input={path}", f"out={tmp_path / 'out'}", *MARKS)


def test_bad_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "pairs.csv", f"out={tmp_path / 'out'}"
    for content, message in [
        ("query,document,score\n", "pairs.csv holds no rows"),
        ("query,document\na,b\n", "pairs.csv has no column score or label or similarity"),
        ("q,document,score\na,b,1\n", "has no column query or anchor"),
        ("query,document,score\na,b,\n", "pairs.csv:2: score must be a number, got None"),
        ("query,document,score\na,b,1\n", "test_size=1: there are 1 queries, and both splits need some"),
    ]:
        assert message in refused(capsys, "pairs", f"input={write(path, content)}", out)
    assert "(it has: document, q, score)" in refused(
        capsys, "pairs", f"input={write(tmp_path / 'p.jsonl', [{'q': 'a', 'document': 'b', 'score': 1}])}", out
    )
    assert "has no column x (it has:" in refused(capsys, "pairs", f"input={path}", out, "score_column=x")
    assert "input= is missing" in refused(capsys, "pairs", out)
    assert "docids=title needs documents=" in refused(capsys, "pairs", f"input={path}", out, "docids=title")
    both = [f"documents={path}", "id_column=score"]
    assert "needs score, and text or title (it has: document" in refused(capsys, "pairs", f"input={path}", out, *both)
    assert "text_column=a has no effect with input= alone" in refused(
        capsys, "pairs", f"input={path}", out, "text_column=a"
    )
    assert "text=title: no document has a title; give text=both" in refused(
        capsys, "pairs", f"input={path}", out, "text=title"
    )
    write(path, "query,document,score\na,b,1\nb,c,0\n")
    capsys.readouterr()
    assert run("prepare", "pairs", f"input={path}", out) == 2
    said = capsys.readouterr()
    assert "there are 1 queries" in said.err
    assert "left out: 1 x query without a relevant document, such as pairs.csv:3: q2" in said.out
    write(path, "query,document,score\na,,1\na,b,1\nb,c,1\nc,d,-3\n")
    assert run("prepare", "pairs", f"input={path}", out) == 0
    assert dropped(tmp_path / "out") == [
        ("pair with an empty cell", "pairs.csv:2", "a /  / "),
        ("query without a relevant document", "pairs.csv:5", "q3"),
    ]
