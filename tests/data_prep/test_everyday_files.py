"""Files as people have them: the same data whatever marks, line ends, gzip, separators, names and ids they have."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.dropped import Dropped
from data_prep.item_texts import read_texts
from stoical.data.files import load_manifest
from stoical.docids.table import DocIDTable
from tests.support.commands import run
from tests.support.made_datasets import dropped, lists, refused, write

MARK = b"\xef\xbb\xbf"
DRESSED: dict[str, Callable[[bytes], bytes]] = {
    "mark": lambda content: MARK + content,
    "CRLF": lambda content: content.replace(b"\n", b"\r\n"),
    "mark and CRLF": lambda content: MARK + content.replace(b"\n", b"\r\n"),
    "gzip": gzip.compress,
    "all": lambda content: gzip.compress(MARK + content.replace(b"\n", b"\r\n")),
}
FILES = {  # every text input of the importers
    "beir/corpus.jsonl": "".join(json.dumps({"_id": f"d{n}", "text": f"text {n}"}) + "\n" for n in range(4)),
    "beir/queries.jsonl": "".join(json.dumps({"_id": f"q{n}", "text": f"query {n}"}) + "\n" for n in range(3)),
    "beir/qrels/test.tsv": "query-id\tcorpus-id\tscore\nq0\td1\t1\nq0\td2\t2\nq1\td3\t1\nq2\td0\t1\n",
    "qrels.txt": "q0 0 d1 1\nq0 0 d2 2\nq1 0 d3 1\nq2 0 d0 0\n",
    "run.txt": "q0 Q0 d1 1 1 t\nq0 Q0 d2 2 2 t\nq1 Q0 d3 1 1 t\n",
    "queries.tsv": "q0\tquery 0\nq1\tquery 1\nq2\tquery 2\n",
    "documents.csv": 'id,title,text\nd0,,text 0\nd1,"one, or 1",\nd2,,"two\nlines"\nd3,three,x\n',
    "pairs.csv": 'query,document,score\na,"x, or y",1\na,z,2\nb,z,1\n',
    "pairs.jsonl": '{"query": "a", "document": "x", "score": 1}\n\n{"query": "b", "document": "y", "score": 2}\n',
    "text.jsonl": '{"prompt": "p\\n", "target": "t"}\n{"prompt": "q", "target": "u\\nv"}\n',
    "text.csv": "prompt,target\np,t\nq,u\n",
}
COMMANDS = {  # name -> words, and which files they read
    "beir": ("beir source=beir train=test", "beir/"),
    "trec qrels": ("trec qrels={qrels.txt} queries={queries.tsv} documents={documents.csv}", ""),
    "trec run": ("trec run={run.txt} queries={queries.tsv} documents={documents.csv}", ""),
    "pairs csv": ("pairs input={pairs.csv}", ""),
    "pairs jsonl": ("pairs input={pairs.jsonl}", ""),
    "text jsonl": ("text input={text.jsonl}", ""),
    "text csv": ("text input={text.csv}", ""),
}


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


def made(command: str, directory: Path, dress: Callable[[bytes], bytes], zipped: bool) -> dict[str, Any]:
    """The lists that a command makes of its files, dressed."""
    ending = ".gz" if zipped else ""
    for name, content in FILES.items():
        path = directory / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dress(content.encode()))
    words = COMMANDS[command][0].replace("source=", f"source={directory}/")
    for name in FILES:
        words = words.replace(f"{{{name}}}", f"{directory / name}{ending}")
    assert run("prepare", *words.split(), "test_size=1", f"out={directory / 'out'}") == 0
    items = directory / "out" / "items.parquet"
    found = {query_id.replace(".gz", ""): row for query_id, row in lists(directory / "out").items()}
    return {"lists": found, "items": DocIDTable.load(items).text_of if items.is_file() else None}


@pytest.mark.parametrize("dress", DRESSED)
@pytest.mark.parametrize("command", COMMANDS)
def test_marks_line_ends_and_gzip_change_nothing(command: str, dress: str, tmp_path: Path) -> None:
    plain = made(command, tmp_path / "plain", lambda content: content, zipped=False)
    found = made(command, tmp_path / "dressed", DRESSED[dress], zipped=dress in ("gzip", "all"))
    assert found == plain


def test_the_first_query_of_qrels_with_a_mark_keeps_its_document(tmp_path: Path) -> None:
    qrels = tmp_path / "qrels.txt"
    qrels.write_bytes(MARK + b"q1 0 a 2\r\nq1 0 b 1\r\nq2 0 x 1\r\n")
    queries = write(tmp_path / "queries.tsv", "q1\ta\nq2\tb\n")
    assert run("prepare", "trec", f"qrels={qrels}", f"queries={queries}", "test_size=1", "out=out") == 0
    assert lists(Path("out"))["q1"] == ({"a": 1, "b": 2}, [])
    assert dropped(Path("out")) == []


CELLS = [["query", "document", "score"], ["a, b", 'x; "y"', "1"], ["a, b", "z\nz", "2"], ["c", "x\ty", "1"]]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("said", ["", "sep={}\n", "\n\n"])
def test_what_parts_the_cells_is_told_from_the_header(separator: str, said: str, tmp_path: Path) -> None:
    def quoted(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"'

    rows = "".join(separator.join(map(quoted, row)) + "\n" for row in CELLS)
    path = write(tmp_path / "pairs.csv", said.format(separator) + rows)
    assert run("prepare", "pairs", f"input={path}", "out=out") == 0
    assert lists(Path("out")) == {"q1": ({"z z": 1, 'x; "y"': 2}, []), "q2": ({"x y": 1}, [])}


@pytest.mark.parametrize(
    "content",
    [
        "query;document;score;;\na;x;1;;\n;;;;\nb;y;1;;\n",
        " Query , DOCUMENT ,Score\na,x,1\nb,y,1,\n",
        "document;score;query\nx, or not;1;a\ny;1;b\n",
    ],
    ids=["empty columns and rows", "capitals and blanks", "commas in cells"],
)
def test_what_spreadsheets_write(content: str, tmp_path: Path) -> None:
    assert run("prepare", "pairs", f"input={write(tmp_path / 'pairs.csv', content)}", "out=out") == 0
    assert [len(ranks) for ranks, _ in lists(Path("out")).values()] == [1, 1]
    assert {query.query for query in pq.read_table("out/train.parquet").to_pandas().itertuples()} <= {"a", "b"}


def test_a_quoted_tsv_and_a_long_cell(tmp_path: Path) -> None:
    long = "x" * 200_000
    path = write(tmp_path / "text.tsv", f'"prompt"\t"target"\n"a ""b"""\t"{long}"\n"c"\t"d\te"\n')
    assert run("prepare", "text", f"input={path}", "out=out") == 0
    assert {docid for ranks, _ in lists(Path("out")).values() for docid in ranks} == {long, "d\te"}


HEAD = "id\ttext\n"
TSV = {  # lines of texts -> the texts: quotes are a csv writer's where all of them are, else text
    'd1\t"he said ""hi"""\nd2\t5 feet\n': ['he said "hi"', "5 feet"],
    'd1\t"he said ""hi"""\nd2\t"5 feet"\n': ['he said "hi"', "5 feet"],
    'd1\t"one\n\n""two"""\nd2\t"a\tb"\n': ['one\n\n"two"', "a\tb"],
    'd1\t"he said ""hi"""\nd2\t5" wide\n': ['"he said ""hi"""', '5" wide'],
    'd1\t"he said ""hi"" twice\nd2\t5 feet\n': ['"he said ""hi"" twice', "5 feet"],
    'd1\t"a phrase"\nd2\t5 feet\n': ['"a phrase"', "5 feet"],
    'd1\ta "word"\nd2\t5 feet\n': ['a "word"', "5 feet"],
}


@pytest.mark.parametrize("head", [HEAD, ""])
@pytest.mark.parametrize("dress", DRESSED)
@pytest.mark.parametrize("content", TSV)
def test_quotes_of_a_tsv_are_text_unless_all_are_a_csv_writers(
    tmp_path: Path, content: str, dress: str, head: str
) -> None:
    path = tmp_path / "texts.tsv"
    path.write_bytes(DRESSED[dress]((head + content).encode()))
    assert [item.text for item in read_texts(path, "document", None, Dropped()).values()] == TSV[content]


def test_a_tsv_of_texts_with_a_header(tmp_path: Path) -> None:
    queries = write(tmp_path / "queries.tsv", "id\ttext\nq1\tone\nq2\ttwo\n")
    qrels = write(tmp_path / "qrels.tsv", "q1\t0\tid\t1\nq2\t0\td\t1\n")
    documents = write(tmp_path / "documents.tsv", "text\tid\tmore\nT\td\t-\nU\tid\t-\n")
    words = [f"qrels={qrels}", f"queries={queries}", f"documents={documents}"]
    assert run("prepare", "trec", *words, "out=out") == 0
    assert DocIDTable.load("out/items.parquet").text_of == {"d": "T", "id": "U"}


def test_unusual_columns_are_named_by_options_in_every_importer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        tmp_path / "beir/corpus.jsonl", [{"sku": f"d{n}", "name": f"N{n}", "body": f"B{n}", "id": -n} for n in (1, 2)]
    )
    write(tmp_path / "beir/queries.jsonl", [{"qid": f"q{n}", "words": f"W{n}"} for n in (1, 2)])
    write(tmp_path / "beir/qrels/test.tsv", "topic\tdoc\trel\nq1\td1\t1\nq1\td2\t2\nq2\td1\t1\n")
    texts = ["id_column=sku,qid", "text_column=body,words", "title_column=name"]
    beir = ["source=beir", "train=test", *texts, "query_column=topic", "document_column=doc", "score_column=rel"]
    assert run("prepare", "beir", *beir, "out=beir_out") == 0
    texts_of = {"d1": "N1 B1", "d2": "N2 B2"}
    assert DocIDTable.load("beir_out/items.parquet").text_of == texts_of
    assert lists(Path("beir_out")) == {"q1": ({"d2": 1, "d1": 2}, []), "q2": ({"d1": 1}, [])}

    qrels = write(tmp_path / "qrels", "q1 0 d1 1\nq1 0 d2 2\nq2 0 d1 1\n")
    trec = [f"qrels={qrels}", "queries=beir/queries.jsonl", "documents=beir/corpus.jsonl", *texts]
    assert run("prepare", "trec", *trec, "out=trec_out") == 0
    assert lists(Path("trec_out")) == lists(Path("beir_out"))

    write(tmp_path / "pairs.csv", "q;d;s\none;d1;1\none;d2;2\ntwo;d1;1\n")
    columns = ["query_column=q", "document_column=d", "score_column=s"]
    assert run("prepare", "pairs", "input=pairs.csv", *columns, "documents=beir/corpus.jsonl", *texts, "out=pairs") == 0
    assert DocIDTable.load("pairs/items.parquet").text_of == texts_of

    write(tmp_path / "text.csv", "in,out\na,b\nc,d\n")
    assert run("prepare", "text", "input=text.csv", "prompt_column=in", "target_column=out", "out=text") == 0

    words, things = ["red", "blue", "green"], ["hose", "lamp", "chair", "table"]
    write(tmp_path / "items.jsonl", [{"sku": n, "name": f"{words[n % 3]} {things[n % 4]}"} for n in range(12)])
    docids = ["input=items.jsonl", "id_column=sku", "title_column=name", "docids=residual", "dimensions=2"]
    assert run("prepare", "docids", *docids, "components=4", "nonzeros=2", "out=items") == 0
    table = DocIDTable.load("items/items.parquet")
    assert [table.text_of[str(n)] for n in range(3)] == ["red hose", "blue lamp", "green chair"]


NAMED = {  # command, file, content -> the message, which names columns and option
    "beir corpus": ("beir source=beir train=test", "beir/corpus.jsonl", '{"sku": "d1", "body": "x"}\n',
        "needs _id or id, and text or title (it has: body, sku); id_column=, text_column= and title_column= name "),
    "beir qrels": ("beir source=beir train=test", "beir/qrels/test.tsv", "topic\tdoc\trel\nq1\td1\t1\n",
        "has no column query-id, corpus-id, score (it has: doc, rel, topic); give query_column=NAME document_column="),
    "trec queries": ("trec qrels=qrels.txt queries=queries.csv", "queries.csv", "qid,words\nq1,a\n",
        "needs _id or id, and text or title (it has: qid, words); id_column="),
    "pairs": ("pairs input=pairs.csv", "pairs.csv", "q,d,s\na,x,1\n",
        "(it has: d, q, s); give query_column=NAME document_column=NAME score_column=NAME"),
    "text": ("text input=text.csv", "text.csv", "in,out\na,b\n",
        "has no column prompt, target (it has: in, out); give prompt_column=NAME target_column=NAME"),
    "docids": ("docids input=items.csv", "items.csv", "sku,name\na,b\n", "(it has: name, sku); id_column="),
    "a misspelt option": ("docids input=items.csv text_column=txt", "items.csv", "id,title\na,b\n",
        "items.csv has no column for text_column=txt (it has: id, title)"),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMED)
def test_a_column_that_is_not_there_is_told_with_those_that_are(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, file, content, message = NAMED[case]
    for name, text in FILES.items():
        write(tmp_path / name, text)
    write(tmp_path / file, content)
    name, *words = command.split()
    assert message in refused(capsys, name, *words, "out=out")


def test_ids_are_the_same_however_the_files_write_them(tmp_path: Path) -> None:
    """Numbers in JSON and parquet, blanks around them, a column of floats with a gap."""
    write(
        tmp_path / "beir/corpus.jsonl",
        [{"_id": 1, "text": "one"}, {"_id": " 2", "text": "two"}, {"_id": "3 ", "text": "x"}],
    )
    write(tmp_path / "beir/queries.jsonl", [{"_id": "7 ", "text": "a"}, {"_id": 8, "text": "b"}])
    write(tmp_path / "beir/qrels/test.tsv", "query-id\tcorpus-id\tscore\n7\t1 \t2\n 7\t2\t1\n8\t3\t1\n")
    table = pa.table({"item_id": [1.0, 2.0, 3.0], "docid": [10, 20, 30], "text": [None, "", "x"]})
    pq.write_table(table, tmp_path / "items.parquet")
    assert run("prepare", "beir", "source=beir", "train=test", "docids=items.parquet", "out=out") == 0
    assert lists(Path("out")) == {"7": ({"10": 1, "20": 2}, []), "8": ({"30": 1}, [])}
    assert dropped(Path("out")) == []

    pq.write_table(
        pa.table({"id": pa.array([1, 2, None, 3]), "text": ["one", "two", "lost", "x"]}), "documents.parquet"
    )
    write(tmp_path / "qrels.txt", "7 0 1 2\n7 0 2 1\n8 0 3 1\n")
    trec = ["qrels=qrels.txt", "queries=beir/queries.jsonl", "documents=documents.parquet", "out=trec"]
    assert run("prepare", "trec", *trec) == 0
    assert lists(Path("trec"))["7"] == ({"1": 1, "2": 2}, [])
    assert dropped(Path("trec")) == [("document without id", "documents.parquet[2]", "lost")]

    rows = [{"query": q, "document": d, "score": 1} for q, d in ((5, 1.0), ("5 ", 2), (" x  y", " 3"))]
    write(tmp_path / "pairs.jsonl", rows)
    words = ["input=pairs.jsonl", "documents=documents.parquet", "out=pairs"]
    assert run("prepare", "pairs", *words) == 0
    assert lists(Path("pairs")) == {"q1": ({"1": 1, "2": 1}, []), "q2": ({"3": 1}, [])}


def test_ids_that_never_meet_are_told_with_both_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "qrels.txt", "q1 0 d1 1\nq2 0 d1 1\n")
    for name, text in (("queries.tsv", "1\ta\n2\tb\n"), ("good.tsv", "q1\ta\nq2\tb\n")):
        write(tmp_path / name, text)
    said = refused(capsys, "trec", "qrels=qrels.txt", "queries=queries.tsv", "out=out")
    assert "queries.tsv: none of its ids, such as '1', is a query's that is asked for, such as 'q1'" in said
    DocIDTable(["x1"], ["[1]"], [""]).save("items.parquet")
    said = refused(capsys, "trec", "qrels=qrels.txt", "queries=good.tsv", "docids=items.parquet", "out=out")
    assert "none of the 1 documents is among its items: ids there are such as 'x1', and here such as 'd1'" in said


LABELS = "grades=E:3,S:2,C:1,I:0"


@pytest.mark.parametrize("command", ["beir", "trec", "pairs"])
def test_labels_count_as_the_grades_that_are_given(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in FILES.items():
        write(tmp_path / name, text)
    rows = [("q0", "d0", "I"), ("q0", "d1", "S"), ("q0", "d2", " E "), ("q0", "d3", "C"), ("q1", "d1", "E")]
    write(
        tmp_path / "beir/qrels/test.tsv",
        "query-id\tcorpus-id\tscore\n" + "".join("\t".join(row) + "\n" for row in rows),
    )
    write(tmp_path / "qrels.txt", "".join(f"{query} 0 {document} {label}\n" for query, document, label in rows))
    write(tmp_path / "pairs.csv", "query,document,score\n" + "".join(",".join(row) + "\n" for row in rows))
    words = {
        "beir": ["source=beir", "train=test"],
        "trec": ["qrels=qrels.txt", "queries=queries.tsv"],
        "pairs": ["input=pairs.csv"],
    }[command]
    assert run("prepare", command, *words, LABELS, "out=out") == 0
    first = next(ranks for ranks in lists(Path("out")).values() if len(ranks[0]) == 3)
    assert first == ({"d2": 1, "d1": 2, "d3": 3}, ["d0"])
    assert "labels go with grades=LABEL:NUMBER,..." in refused(capsys, command, *words, "out=no")
    assert "is none of grades= (E)" in refused(capsys, command, *words, "grades=E:3", "out=no")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("E3", "grades=E3: 'E3' is not a label and its grade, such as E:3"),
        (":3", "':3' is not a label and its grade"),
        ("E:x", "grades=E:x: a grade must be a number, got 'x'"),
        ("E:1,E:2", "grades=E:1,E:2: 'E' comes twice"),
    ],
)
def test_labels_that_are_not_so(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, "pairs", "input=pairs.csv", f"grades={words}", "out=out")


def test_a_label_that_looks_like_a_number_stays_a_label(tmp_path: Path) -> None:
    write(tmp_path / "pairs.csv", "query,document,score\na,x,1\nb,y,1\n")
    assert run("prepare", "pairs", "input=pairs.csv", "grades=1:30", "out=out") == 0
    assert load_manifest("out")["options"]["grades"] == "1:30"


TWICE = "query,document,score\na,x,1\na,y,2\na,x,3\na,y,2\nb,x,1\n"


@pytest.mark.parametrize(
    ("choice", "ranks", "noted"),
    [
        ("first", {"y": 1, "x": 2}, ("pairs.csv:4", "q1 x 3; first at pairs.csv:2")),
        ("best", {"x": 1, "y": 2}, ("pairs.csv:2", "q1 x 1; kept at pairs.csv:4")),
    ],
)
def test_a_pair_with_two_grades(choice: str, ranks: dict[str, int], noted: tuple[str, str], tmp_path: Path) -> None:
    write(tmp_path / "pairs.csv", TWICE)
    assert run("prepare", "pairs", "input=pairs.csv", f"twice={choice}", "out=out") == 0
    assert lists(Path("out"))["q1"] == (ranks, [])
    assert dropped(Path("out"))[0] == ("pair again, with another grade", *noted)
    assert [reason for reason, _, _ in dropped(Path("out"))] == ["pair again, with another grade", "pair again"]


def test_a_pair_with_two_grades_may_be_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "pairs.csv", TWICE)
    said = refused(capsys, "pairs", "input=pairs.csv", "twice=error", "out=out")
    assert "pairs.csv:4: q1 x 3, but 1 at pairs.csv:2; give twice=best or first" in said


@pytest.mark.parametrize(
    ("scores", "note"),
    [
        ("00000", "note: all documents of every query tie, as their grades or scores are equal (2 queries)"),
        ("21099", "1 of 2 queries with several documents have all of them at one rank"),
        ("21021", None),
    ],
)
def test_a_run_whose_scores_are_equal_is_noted(
    scores: str, note: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [("q1", "a"), ("q1", "b"), ("q1", "c"), ("q2", "a"), ("q2", "b")]
    lines = [f"{q} Q0 {d} 1 {score} t\n" for (q, d), score in zip(places, scores, strict=True)]
    write(tmp_path / "run.txt", "".join(lines))
    write(tmp_path / "queries.tsv", "q1\tfirst\nq2\tsecond\n")
    assert run("prepare", "trec", "run=run.txt", "queries=queries.tsv", "test_size=1", "out=out") == 0
    out = capsys.readouterr().out
    assert (note or "at one rank") in out or note is None
    assert ("tie" in out or "at one rank" in out) == (note is not None)


BAD_CELLS = {
    "400 digits": '{"query": "a", "document": "b", "score": ' + "9" * 400 + "}",
    "an endless number": '{"query": "a", "document": "b", "score": Infinity}',
    "a list": '{"query": ["a"], "document": "b", "score": 1}',
    "a yes": '{"query": "a", "document": true, "score": 1}',
    "no number": '{"query": "a", "document": "b", "score": {"x": [1]}}',
    "half a pair": '{"query": "\\ud800", "document": "b", "score": 1}',
    "deep": '{"query": "a", "document": ' + "[" * 50_000 + "]" * 50_000 + ', "score": 1}',
    "rather deep": '{"query": "a", "document": "b", "score": 1, "x": ' + "[" * 950 + "]" * 950 + "}",
}


@pytest.mark.parametrize("case", BAD_CELLS)
def test_odd_values_are_told_in_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = '{"query": "c", "document": "b", "score": 1}\n'
    write(tmp_path / "pairs.jsonl", good + BAD_CELLS[case] + "\n" + good.replace("c", "d"))
    status = run("prepare", "pairs", "input=pairs.jsonl", "out=out")
    if case == "rather deep" and status == 0:
        return  # how deep is too deep depends on the stack
    error = capsys.readouterr().err
    assert (status, error.count("\n")) == (2, 1)
    assert "pairs.jsonl:2" in error
    assert len(error) < 400


def test_a_deep_list_of_any_depth_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for depth in range(900, 1_000, 7):
        cell = "[" * depth + "]" * depth
        write(tmp_path / "beir/corpus.jsonl", f'{{"_id": "d", "text": {cell}}}\n')
        write(tmp_path / "beir/queries.jsonl", FILES["beir/queries.jsonl"])
        write(tmp_path / "beir/qrels/test.tsv", FILES["beir/qrels/test.tsv"])
        assert "corpus.jsonl:1" in refused(capsys, "beir", "source=beir", "train=test", "out=out")
