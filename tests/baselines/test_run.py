"""baselines/run.py: a run like every other: its files, exact resume, SIGTERM and SIGKILL, evaluation, comparison."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import stoical
import stoical.baselines.run
from stoical.baselines.evaluation import load_encoder
from stoical.baselines.run import Run
from stoical.build.encoder import build_tokenizer
from stoical.config.loading import load_recipe
from stoical.evaluation.paper import gold_gains, ndcg
from stoical.runs.checkpoints import UNFINISHED, last_checkpoint
from tests.support import forked
from tests.support.commands import run
from tests.support.small_data import write_dataset
from tests.support.tiny_run import train_tiny

SETTINGS = [
    "global_batch_size=16",
    "training.max_steps=12",
    "training.save_steps=4",
    "training.eval_steps=6",
    "training.logging_steps=3",
]
KINDS = ["dual_encoder_4,alpha2", "cross_encoder"]


def words(folder: Path, *more: str, kind: str = KINDS[0], output: str = "run") -> list[str]:
    own = [f"recipe={kind}", f"data.path={folder / 'data'}", f"output={folder / output}", *SETTINGS, *more]
    return list({word.partition("=")[0]: word for word in own}.values())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data")
    return tmp_path


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def equal(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_trains_is_evaluated_and_resumes_bit_for_bit(kind: str, folder: Path) -> None:
    assert run("train", *words(folder, kind=kind)) == 0
    directory = folder / "run"
    names = {path.name for path in directory.iterdir()}
    assert names == {
        "recipe.yaml",
        "manifest.json",
        "metrics.jsonl",
        "README.md",
        "_lock",
        "checkpoint-8",
        "checkpoint-12",
    }
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [3, 6, 9, 12]
    assert [row["step"] for row in rows if "eval_ndcg" in row] == [6, 12]
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["global_batch"]["pairs"] == 16 and "template_sha256" not in manifest

    short = words(folder, "training.max_steps=5", "training.save_steps=5", kind=kind, output="stopped")
    assert run("train", *short) == 0 and (folder / "stopped" / "checkpoint-5").is_dir()
    assert run("train", *words(folder, "resume=auto", kind=kind, output="stopped")) == 0, (
        "an endless schedule may go on"
    )
    assert equal(directory / "checkpoint-12", folder / "stopped" / "checkpoint-12")

    assert run("evaluate", f"checkpoint={directory}") == 0
    metrics = json.loads((directory / "eval" / "metrics.json").read_text())
    assert metrics["mode"] == kind.partition(",")[0].removesuffix("_4") and metrics["num_queries"] == 6
    last = {key.removeprefix("eval_"): value for key, value in rows[-1].items()}
    assert all(metrics[key] == pytest.approx(last[key]) for key in ("ndcg", "cvr", "recall@2", "recall@10"))


def test_per_query_scores_are_the_tables_own(folder: Path) -> None:
    """Inner products of two rows, and the metric of them, without the library's evaluator."""
    assert run("train", *words(folder)) == 0 and run("evaluate", f"checkpoint={folder / 'run'}") == 0
    checkpoint = folder / "run" / "checkpoint-12"
    place = {name: number for number, name in enumerate(json.loads((checkpoint / "items.json").read_text()))}
    table = weights(checkpoint)["table"].double().numpy()
    queries = {
        row["query_id"]: row["query"] for row in map(json.loads, (folder / "data/test.jsonl").read_text().splitlines())
    }
    lines = [json.loads(line) for line in (folder / "run/eval/per_query.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    for line in lines:
        wanted = np.array([table[place[queries[line["query_id"]]]] @ table[place[name]] for name in line["docids"]])
        assert line["scores"] == pytest.approx(wanted, abs=1e-6)
        gains = gold_gains(np.array(line["ranks"]), line["num_negatives"])
        assert line["ndcg"] == pytest.approx(ndcg(np.array(line["scores"]), gains))


def test_from_python_it_is_the_same(folder: Path) -> None:
    checkpoint = stoical.train(load_recipe(*words(folder)))
    assert checkpoint == folder / "run" / "checkpoint-12"
    assert stoical.evaluate(checkpoint).metrics["num_queries"] == 6
    assert stoical.evaluate(folder / "run", "eval.num_queries=3").metrics["num_queries"] == 3


def test_it_is_compared_with_a_language_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    language = train_tiny(tmp_path)
    assert run("train", *words(tmp_path, output="encoder")) == 0
    for name in ("run", "encoder"):
        assert run("evaluate", f"checkpoint={tmp_path / name}") == 0
    capsys.readouterr()
    assert run("compare", str(language), str(tmp_path / "encoder")) == 0
    said = capsys.readouterr().out
    assert "dual_encoder, inner product" in said and "exact, mean" in said and "encoder − run" in said


def test_a_finished_run_is_left_alone_and_its_card_restored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", *words(folder)) == 0
    assert run("train", *words(folder)) == 2 and "already holds a run (checkpoint-12)" in capsys.readouterr().err
    card = (folder / "run" / "README.md").read_text()
    assert "A dual encoder: one table of" in card and r"\lambda(r) = r^{-2}" in card and "12 steps of 16 pairs" in card
    (folder / "run" / "README.md").unlink()
    assert run("train", *words(folder, "resume=auto")) == 0 and "has done all 12 steps" in capsys.readouterr().out
    assert (folder / "run" / "README.md").read_text() == card.replace("resume: null", "resume: auto")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("dual_encoder.temperature=0.1", "dual_encoder.temperature: 0.05 -> 0.1"),
        ("loss.alpha=1", "loss.alpha: 2.0 -> 1.0"),
    ],
)
def test_another_recipe_is_refused(change: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", *words(folder, "training.max_steps=4")) == 0
    assert run("train", *words(folder, "resume=auto", change)) == 2
    assert said in capsys.readouterr().err


def _train(words: list[str], sent: int, at: int) -> int:
    """Train in a process of its own that sends itself a signal in the middle of a step; 0: while it saves that step."""
    one_step, save_model = Run.one_step, stoical.baselines.run.save_model

    def step(self: Run) -> float:
        if self.step == at - 1 and sent == signal.SIGTERM:
            os.kill(os.getpid(), sent)
        return one_step(self)

    def save(model: Any, path: str) -> None:
        save_model(model, path)
        if f"checkpoint-{at}" in path and sent == signal.SIGKILL:
            os.kill(os.getpid(), sent)

    Run.one_step, stoical.baselines.run.save_model = step, save  # type: ignore[method-assign]
    return forked.command("train", *words)


def test_sigterm_finishes_the_step_saves_and_ends_with_143(folder: Path) -> None:
    assert run("train", *words(folder)) == 0
    (process,) = forked.start(_train, words(folder, output="stopped"), signal.SIGTERM, 7, log=folder / "log")
    process.join(120)
    assert process.exitcode == 143, (folder / "log").read_text()
    assert "terminated: saved after step 7; resume=auto continues from there" in (folder / "log").read_text()
    assert last_checkpoint(folder / "stopped") == folder / "stopped" / "checkpoint-7"
    assert run("train", *words(folder, "resume=auto", output="stopped")) == 0
    assert equal(folder / "run" / "checkpoint-12", folder / "stopped" / "checkpoint-12")


def test_sigkill_while_saving_leaves_no_checkpoint_and_loses_nothing_before(folder: Path) -> None:
    assert run("train", *words(folder)) == 0
    (process,) = forked.start(_train, words(folder, output="killed"), signal.SIGKILL, 8, log=folder / "log")
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert (
        last_checkpoint(folder / "killed") == folder / "killed" / "checkpoint-4"
        and (folder / "killed" / UNFINISHED).is_dir()
    )
    assert run("train", *words(folder, "resume=auto", output="killed")) == 0
    assert equal(folder / "run" / "checkpoint-12", folder / "killed" / "checkpoint-12")
    assert not (folder / "killed" / UNFINISHED).exists()
    steps = [json.loads(line)["step"] for line in (folder / "killed/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps.count(6) == 2, "rows past the checkpoint were dropped"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("global_batch_size=4000", "fewer than one batch; lower it"),
        ("training.learning_rate=1e39", "the last checkpoint is none yet. Lower training.learning_rate"),
        ("data.path=nowhere", "there is no dataset directory nowhere"),
    ],
)
def test_mistakes_are_one_line(change: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", *words(folder, change)) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list(folder.glob("run/checkpoint-*"))


def test_several_processes_are_refused(folder: Path) -> None:
    processes = forked.start(forked.command, "train", *words(folder), log=folder / "log", world=2)
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [2, 2]
    assert "trains in one process" in (folder / "log").read_text() and not (folder / "run").exists()


def test_commands_for_language_models_refuse_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", *words(folder)) == 0
    directory, out = folder / "run", folder / "out"
    (folder / "in.jsonl").write_text('{"query": "a", "docs": ["b", "c"]}\n')
    commands = [
        ["rank", f"checkpoint={directory}", f"input={folder / 'in.jsonl'}"],
        ["export", f"checkpoint={directory}", f"output={out}"],
        ["dpo", f"checkpoint={directory}", f"output={out}"],
        ["spin", f"checkpoint={directory}", f"output={out}"],
    ]
    for command in commands:
        capsys.readouterr()
        assert run(*command) == 2, command
        error = capsys.readouterr().err
        assert "lookup encoder" in error and error.count("\n") == 1, (command, error)
    with pytest.raises(ValueError, match="the recipe's dual_encoder is a lookup encoder"):
        build_tokenizer(load_recipe(*words(folder)))


@pytest.mark.parametrize(("kind", "rate"), [("dual_encoder_16,alpha2", 0.1), ("cross_encoder,alpha2", 1e-3)])
def test_it_learns_the_lists_that_it_is_trained_on(kind: str, rate: float, folder: Path) -> None:
    """Rows of one query's documents each, tested on as well: nDCG from that of chance to nearly 1."""
    lists = [[{"docid": f"d{(i + j) % 9}"} for j in range(5)] for i in range(9)]
    rows = [{"query_id": f"q{i}", "query": f"query {i}", "docs": docs} for i, docs in enumerate(lists)]
    tested = [row | {"negatives": [{"docid": f"d{(i + 6) % 9}"}]} for i, row in enumerate(rows)]
    for split, some in (("train", rows), ("test", tested)):
        (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    own = ["training.max_steps=400", "training.save_steps=400", f"training.learning_rate={rate}"]
    recipe = load_recipe(*words(folder, *own, kind=kind))
    before = Run.start(recipe, None)
    start = before.evaluator(before.encoder).metrics["ndcg"]
    stoical.train(recipe)
    found = stoical.evaluate(folder / "run").metrics
    assert start < 0.93 and found["ndcg"] > 0.97 and found["recall@1"] > 0.8


def test_a_dry_run_shows_pairs_and_items_and_trains_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", *words(folder, "dry_run=true")) == 0
    said = capsys.readouterr().out
    assert "steps an epoch" in said and ", lambda " in said and "test queries are in no training pair" in said
    assert not (folder / "run").exists()


def test_the_untrained_encoder_is_evaluated_by_recipe(folder: Path) -> None:
    assert run("evaluate", *words(folder)) == 0
    first = json.loads((folder / "run/eval/metrics.json").read_text())
    assert first["mode"] == "dual_encoder" and first["references"].keys() == {"random order"}
    summary = (folder / "run/eval/summary.md").read_text()
    assert "Scores: dual encoder, inner product" in summary and "nats" not in summary and "Input order" not in summary


def test_a_loaded_encoder_scores_as_the_trained_one(folder: Path) -> None:
    recipe = load_recipe(*words(folder))
    trained = Run.start(recipe, None)
    stoical.train(recipe)
    encoder, items = load_encoder(recipe, folder / "run" / "checkpoint-12")
    assert items.names == trained.items.names and not encoder.table.equal(trained.encoder.table)


DAMAGED: dict[str, Callable[[Path], None]] = {
    "model.safetensors is missing": lambda path: path.unlink(),
    "model.safetensors is damaged": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "whole numbers in place of weights": lambda path: save_file({"table": load_file(path)["table"].int()}, path),
    "numbers that are not finite": lambda path: save_file({"table": load_file(path)["table"] / 0}, path),
    "does not fit items.json": lambda path: save_file({"table": load_file(path)["table"][1:].contiguous()}, path),
    "Unexpected key(s)": lambda path: save_file({"other": torch.zeros(3)}, path),
}


def test_a_damaged_table_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a checkpoint without the record of its sums, as one that somebody put together."""
    assert run("train", *words(folder, "training.max_steps=2", "training.save_steps=2")) == 0
    (checkpoint,) = (folder / "run").glob("checkpoint-*")
    (checkpoint / "resume.json").unlink()
    path = checkpoint / "model.safetensors"
    whole = path.read_bytes()
    for said, damage in DAMAGED.items():
        path.write_bytes(whole)
        damage(path)
        capsys.readouterr()
        assert run("evaluate", f"checkpoint={checkpoint}") == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
