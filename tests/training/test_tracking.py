"""Trackers: one run, of rank 0, with the curves; and nothing that goes wrong in one of them reaches the training."""

from __future__ import annotations

import importlib.util
import json
import logging
import struct

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from transformers.integrations import TensorBoardCallback

from stoical.config.loading import load_recipe
from stoical.training import tracking
from stoical.training.build import build_trainer
from tests.support import forked, wandb_file
from tests.support.launching import TWO_PROCESSES
from tests.support.small_data import TINY, write_dataset

STEPS = {"training.max_steps": "4", "training.logging_steps": "1", "training.eval_steps": "2"}


@pytest.fixture(autouse=True)
def fresh_process():
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def words(tmp_path, output, **settings):
    if not (tmp_path / "data").exists():
        write_dataset(tmp_path / "data")
    values = dict(word.split("=", 1) for word in TINY) | STEPS | settings
    values |= {"recipe": "wordnet_alpha2,small", "data.path": tmp_path / "data", "output": tmp_path / output}
    return [f"{key}={value}" for key, value in values.items()]


def trained(tmp_path, output, report_to):
    trainer = build_trainer(load_recipe(*words(tmp_path, output, **{"training.report_to": report_to})))
    trainer.train()
    return trainer


def logged(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_wandb_offline_on_two_processes_is_one_run_with_the_curves(tmp_path):
    """No network, no account; the rows of the .wandb file are those of metrics.jsonl."""
    own = {"training.report_to": "wandb", "training.run_name": "mine"}
    environment = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    command = ["train", *words(tmp_path, "run", **own)]
    said = forked.run(
        forked.command, *command, log=tmp_path / "log", world=2, config=TWO_PROCESSES, **environment
    )  # fmt: skip
    assert "switched off" not in said
    [file] = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert len(list((tmp_path / "wandb").glob("*run-*"))) == 1
    assert wandb_file.run_names(file) == [("stoical", "mine")]
    assert wandb_file.config(file)["recipe"]["loss"]["alpha"] == 2.0
    rows, logs = wandb_file.history(file), logged(tmp_path / "run")
    for theirs, ours, count in (("train/loss", "loss", 4), ("eval/cvr", "eval_cvr", 2), ("eval/ndcg", "eval_ndcg", 2)):
        curve = [(row["train/global_step"], row[theirs]) for row in rows if theirs in row]
        assert curve == [(log["step"], log[ours]) for log in logs if ours in log]
        assert len(curve) == count


def test_a_tracker_that_fails_is_told_of_once_and_changes_nothing(tmp_path, monkeypatch, caplog):
    plain = trained(tmp_path, "plain", "none")
    calls = []

    def broken(self, *arguments, **kwargs):
        calls.append(arguments)
        raise OSError("disk full")

    monkeypatch.setattr(TensorBoardCallback, "on_log", broken)
    with caplog.at_level(logging.WARNING):
        tracked = trained(tmp_path, "tracked", "tensorboard")
    said = [record.getMessage() for record in caplog.records if "tensorboard" in record.getMessage()]
    assert len(said) == len(calls) == 1
    assert "tensorboard failed in on_log and is switched off (OSError: disk full)" in said[0]
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(weight, tracked.model.state_dict()[name]), name
    assert [log["step"] for log in logged(tmp_path / "tracked") if "loss" in log] == [1, 2, 3, 4]


def test_a_tracker_that_cannot_be_made_is_left_out(tmp_path, monkeypatch, caplog):
    def broken(self):
        raise RuntimeError("half an installation")

    monkeypatch.setattr(TensorBoardCallback, "__init__", broken)
    with caplog.at_level(logging.WARNING):
        assert trained(tmp_path, "run", "tensorboard").state.global_step == 4
    assert "tensorboard could not be started and is left out (RuntimeError: half an installation)" in caplog.text


def test_a_missing_package_is_named_before_anything_is_loaded(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == "trackio" else found(name))
    settings = words(tmp_path, "run", **{"training.report_to": "[wandb,trackio]"})
    (tmp_path / "data" / "train.jsonl").unlink()  # reading it would be another error
    with pytest.raises(ValueError, match=r"report_to=trackio: trackio is not installed; pip install 'stoical\[trackio"):
        build_trainer(load_recipe(*settings))


def test_unknown_trackers_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"tracker 'training.report_to=wandbb' does not exist.*wandb, trackio"):
        load_recipe(*words(tmp_path, "run", **{"training.report_to": "wandbb"}))


def test_tensorboard_gets_the_curves(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    trained(tmp_path, "run", "tensorboard")
    [file] = (tmp_path / "run" / "runs").rglob("events.*")
    data, place, points = file.read_bytes(), 0, []
    while place < len(data):  # TFRecord: length (8 bytes), its checksum (4), the event, its checksum (4)
        (length,) = struct.unpack_from("<Q", data, place)
        event = Event.FromString(data[place + 12 : place + 12 + length])
        points += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        place += length + 16
    logs = logged(tmp_path / "run")
    for tag, name in (("train/loss", "loss"), ("eval/ndcg", "eval_ndcg")):
        expected = [(log["step"], pytest.approx(log[name], rel=1e-6)) for log in logs if name in log]
        assert [(step, value) for step, found, value in points if found == tag] == expected


def test_trackio_gets_the_curves(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    trackio = pytest.importorskip(
        "trackio", reason="trackio is not installed: it refuses the pillow of constraints.txt"
    )
    from trackio.sqlite_storage import SQLiteStorage

    trained(tmp_path, "run", "trackio")
    [run] = trackio.Api().runs("stoical")
    assert run.name == "run"
    rows = SQLiteStorage.get_logs("stoical", "run")
    losses = [log["loss"] for log in logged(tmp_path / "run") if "loss" in log]
    assert [row["train/loss"] for row in rows if "train/loss" in row] == pytest.approx(losses)
    assert sum("eval/ndcg" in row for row in rows) == 2
