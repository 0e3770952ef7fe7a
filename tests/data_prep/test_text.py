"""stoical prepare text: prompts and targets as they stand, and what bad input is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stoical.data.dataset import load_split
from stoical.data.files import load_manifest
from tests.support.commands import run

PAIRS = [
    {"prompt": "Add 1 and 2.\n", "target": "3"},
    {"prompt": "Add 1 and 2.\n", "target": "Three.\nThat is all.", "note": "another answer, and an unread key"},
    {"prompt": "Name a deer:", "target": "elk"},
    {"prompt": "Name a deer:", "target": "elk"},
    {"prompt": " \n", "target": "nothing asked"},
    {"prompt": "Say nothing:", "target": ""},
    {"prompt": "Name a bat:", "target": "vampire"},
]


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(out: Path, split: str) -> dict[str, tuple[str, str]]:
    rows = load_split(out, split)
    assert all(len(row.docs) == 1 and not row.negatives for row in rows)
    return {row.query_id: (row.query, row.docs[0].docid) for row in rows}


def dropped(out: Path) -> list[tuple[str, str, str]]:
    found = [(row["reason"], row["where"], row["text"]) for row in pq.read_table(out / "dropped.parquet").to_pylist()]
    assert sum(each["rows"] for each in load_manifest(out)["dropped"].values()) == len(found)
    return found


LEFT_OUT = [
    ("pair that comes again", "pairs.jsonl:4", "Name a deer:"),
    ("empty prompt", "pairs.jsonl:5", " \nnothing asked"),
    ("empty target", "pairs.jsonl:6", "Say nothing:"),
]


def test_a_file_is_split_by_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    source = write(tmp_path / "pairs.jsonl", PAIRS)
    assert run("prepare", "text", f"input={source}", f"out={out}", "test_size=1", "licence=CC0", "seed=1") == 0
    train, test = pairs(out, "train"), pairs(out, "test")
    assert train | test == {
        f"pairs.jsonl:{line}": (str(PAIRS[line - 1]["prompt"]), str(PAIRS[line - 1]["target"])) for line in (1, 2, 3, 7)
    }
    prompts = [{prompt for prompt, _ in split.values()} for split in (train, test)]
    assert [len(each) for each in prompts] == [2, 1], "all targets of a prompt are on one side"
    assert not prompts[0] & prompts[1]
    assert dropped(out) == LEFT_OUT
    manifest = load_manifest(out)
    assert (manifest["licence"], manifest["seed"], manifest["source"]) == ("CC0", 1, {"input": "pairs.jsonl"})
    assert str(tmp_path) not in (out / "manifest.json").read_text()
    printed = capsys.readouterr().out
    assert "left out: 1 x pair that comes again, such as pairs.jsonl:4: Name a deer:" in printed


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write(tmp_path / "pairs.jsonl", PAIRS)
    for name, seed in (("one", 0), ("two", 0), ("three", 3)):
        assert run("prepare", "text", f"input={source}", f"out={tmp_path / name / 'out'}", f"seed={seed}") == 0
    one, two, three = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "out").iterdir()}
        for name in ("one", "two", "three")
    )
    assert one == two
    assert one["train.parquet"] != three["train.parquet"]


def test_two_files_keep_their_split_and_a_shared_prompt_is_for_testing(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [{"prompt": f"p{n}", "target": "t"} for n in range(3)])
    test = write(tmp_path / "test.jsonl", [{"prompt": "p1", "target": "other"}])
    assert run("prepare", "text", f"input={train}", f"test_input={test}", f"out={tmp_path / 'out'}") == 0
    assert {prompt for prompt, _ in pairs(tmp_path / "out", "train").values()} == {"p0", "p2"}
    assert pairs(tmp_path / "out", "test") == {"test.jsonl:1": ("p1", "other")}
    assert dropped(tmp_path / "out") == [("training prompt that is in test, too", "train.jsonl:2", "p1")]


def test_blanks_around_targets_are_cut_on_request_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f" p{n} ", "target": target} for n, target in enumerate(["a", "b\n", " c"])]
    source = write(tmp_path / "pairs.jsonl", rows)
    assert run("prepare", "text", f"input={source}", f"out={tmp_path / 'out'}") == 2
    error = capsys.readouterr().err
    assert "pairs.jsonl:2: target has blanks or line breaks at its ends" in error
    assert "(2 such rows): cut them off with strip=true" in error
    assert run("prepare", "text", f"input={source}", f"out={tmp_path / 'out'}", "strip=true") == 0
    found = {**pairs(tmp_path / "out", "train"), **pairs(tmp_path / "out", "test")}
    assert sorted(found.values()) == [(" p0 ", "a"), (" p1 ", "b"), (" p2 ", "c")], "prompts stay as they are"


BAD = {
    "no input": ([], "", "input= is missing"),
    "no file": (["input=nowhere.jsonl"], "", "there is no file nowhere.jsonl"),
    "no JSON": (["input=it.jsonl"], "{prompt", "it.jsonl:1: not a JSON object"),
    "no target": (["input=it.jsonl"], '{"prompt": "a"}', "it.jsonl has no column target (it has: prompt)"),
    "a number": (["input=it.jsonl"], '{"prompt": "a", "target": 3}', "it.jsonl:1: target must be text, got 3"),
    "nothing": (["input=it.jsonl", "prompt_column=target"], "", "are both target"),
    "no rows": (["input=it.csv"], "prompt,target\n", "it.csv holds no rows"),
    "one prompt": (["input=it.csv"], "prompt,target\na,b\n", "test_size=1: there are 1 prompts"),
    "empty cells": (["input=it.csv"], "prompt,target\na,\n", "test_size=1: there are 0 prompts"),
    "same file twice": (
        ["input=it.csv", "test_input=it.csv"], "prompt,target\na,b\n", "no row of train is left"
    ),
    "size and file": (["input=it.csv", "test_input=it.csv", "test_size=3"], "", "test_size=3 has no effect"),
    "seed": (["input=it.csv", "seed=-1"], "", "seed=-1: must be from"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_line_and_writes_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, content, message = BAD[case]
    monkeypatch.chdir(tmp_path)
    for name in ("it.jsonl", "it.csv"):
        Path(name).write_text(content)
    assert run("prepare", "text", *words, "out=out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not Path("out").exists()


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def chats(path: Path, *conversations: Any) -> Path:
    return write(path, [{"messages": each} for each in conversations])


def test_a_question_and_its_answer_are_written_as_they_stand(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "three "}, {"type": "text", "text": "parts"}]
    conversations = [
        [said("user", "Hi [INST]\n"), said("assistant", "Hello")],
        [said("user", "Hi"), said("assistant", parts)],
    ]
    source = chats(tmp_path / "chat.jsonl", *conversations)
    assert run("prepare", "text", f"input={source}", f"out={tmp_path / 'out'}") == 0
    found = pairs(tmp_path / "out", "train") | pairs(tmp_path / "out", "test")
    assert found == {"chat.jsonl:1": ("Hi [INST]\n", "Hello"), "chat.jsonl:2": ("Hi", "three parts")}


LONG = [
    said("system", "Be brief."),
    said("user", "Hi"),
    said("assistant", "Hello"),
    said("user", "Bye"),
    said("assistant", "!"),
]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_longer_conversations_have_their_roles(kind: str, tmp_path: Path) -> None:
    """The last answer is the target; short ones beside them are written alike."""
    rows = [LONG, [said("user", "Yes?"), said("assistant", "No")]]
    source = tmp_path / f"chat.{kind}"
    if kind == "jsonl":
        write(source, [{"messages": each, "prompt": "unread, as there is no target"} for each in rows])
    elif kind == "csv":
        source.write_text("messages\n" + "".join('"' + json.dumps(each).replace('"', '""') + '"\n' for each in rows))
    else:
        pq.write_table(pa.table({"messages": rows}), source)
    assert run("prepare", "text", f"input={source}", f"out={tmp_path / 'out'}") == 0
    found = pairs(tmp_path / "out", "train") | pairs(tmp_path / "out", "test")
    assert set(found.values()) == {
        ("system: Be brief.\nuser: Hi\nassistant: Hello\nuser: Bye\nassistant:", "!"),
        ("user: Yes?\nassistant:", "No"),
    }


def test_roles_are_written_in_both_files_or_in_none(tmp_path: Path) -> None:
    train = chats(tmp_path / "train.jsonl", LONG)
    test = chats(tmp_path / "test.jsonl", [said("user", "Yes?"), said("assistant", "No")])
    assert run("prepare", "text", f"input={train}", f"test_input={test}", f"out={tmp_path / 'out'}") == 0
    assert pairs(tmp_path / "out", "test") == {"test.jsonl:1": ("user: Yes?\nassistant:", "No")}


def test_conversations_without_an_answer_are_listed(tmp_path: Path) -> None:
    image = [said("user", [{"type": "image", "url": "x"}]), said("assistant", "A deer")]
    called = [said("user", "Hi"), said("assistant", None)]
    source = chats(
        tmp_path / "chat.jsonl",
        [said("user", "Hi")],
        [],
        None,
        [said("assistant", "Hi")],
        image,
        called,
        LONG[1:3],
        LONG[3:],
    )
    named = source.rename(tmp_path / "chat.jsonl")
    assert run("prepare", "text", f"input={named}", f"out={tmp_path / 'out'}", "messages_column=x,messages") == 0
    assert [(reason, where) for reason, where, _ in dropped(tmp_path / "out")] == [
        *[("conversation that does not end with an answer", f"chat.jsonl:{line}") for line in (1, 2, 3, 4)],
        *[("conversation with a message that is not text", f"chat.jsonl:{line}") for line in (5, 6)],
    ]


@pytest.mark.parametrize(
    "cell",
    ['"words"', "7", '{"role": "user"}', "[1]", '[{"from": "human", "value": "Hi"}]', '[{"role": 1, "content": "a"}]'],
)
def test_what_is_no_conversation_is_told(cell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "chat.jsonl").write_text(f'{{"messages": {cell}}}\n')
    assert run("prepare", "text", f"input={tmp_path / 'chat.jsonl'}", f"out={tmp_path / 'out'}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "chat.jsonl:1: " in error
    assert 'such as [{"role": "user"' in error or 'as in [{"role": "user"' in error
