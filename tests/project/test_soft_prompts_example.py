"""examples/soft_prompts: its texts and rows, a job that is done and goes on, and the report of a few jobs."""

from __future__ import annotations

import json

import pytest

from examples.soft_prompts import __main__ as study
from examples.soft_prompts import runs
from examples.soft_prompts.rows import ROWS, settings_of
from examples.soft_prompts.runs import Job, carry_out
from examples.soft_prompts.texts import LENGTHS, cut_to_lengths, kinds
from stoical.soft_prompts.settings import DECODERS, OBJECTIVES
from stoical.soft_prompts.training import PromptTraining
from tests.support.tiny_frozen import TEXTS, save_frozen, small_tokenizer


def test_fifty_texts_of_three_kinds_and_a_row_for_every_objective():
    found = kinds()
    assert {kind: len(own) for kind, own in found.items()} == {"phrase": 17, "sentence": 17, "random": 16}
    assert len({text for own in found.values() for text in own}) == 50
    assert {row.partition(",")[0] for row in ROWS} >= set(OBJECTIVES)
    for row in ROWS:
        settings = settings_of(row)
        settings.model.name = "x"
        settings.check()


def test_long_texts_are_cut_to_lengths():
    found = cut_to_lengths(small_tokenizer())
    assert [len(ids) for ids in found] == [*LENGTHS, *LENGTHS]
    assert all(ids[-1] == 2 for ids in found)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(runs, "kinds", lambda: {"phrase": [*TEXTS[:2]], "random": [TEXTS[2]]})
    monkeypatch.setattr(runs, "cut_to_lengths", lambda tokenizer: [[280, 281, 2], [280, 2]])


def test_jobs_and_their_report(small, tmp_path, capsys, monkeypatch):
    model = save_frozen(tmp_path / "model")
    options = study.Options(
        model=str(model), out=str(tmp_path), rows="cross_entropy; combined, REINFORCE", seeds="0,1", steps=4,
        horizon="1,2", vectors=2,
    )  # fmt: skip
    monkeypatch.setattr(study, "run_all", lambda jobs, workers: [carry_out(job) for job in jobs if not job.done])
    study.run(options)
    printed = capsys.readouterr().out
    for words in ("| cross_entropy", "| combined, REINFORCE", " beam |", " phrase |", "float32: ", "bfloat16: "):
        assert words in printed
    record = json.loads((tmp_path / "results.json").read_text())
    assert {name: len(own) for name, own in record["table"].items()} == {"cross_entropy": 2, "combined, REINFORCE": 2}
    one = record["table"]["cross_entropy"][0]
    assert list(one["decoders"]) == [*DECODERS]
    assert one["frozen_unchanged"]
    assert [len(own) for own in one["decoders"].values()] == [3] * len(DECODERS)
    for name in ("by_step.png", "gap.png", "horizon.png"):
        assert (tmp_path / name).is_file()


def test_a_job_that_was_interrupted_goes_on(small, tmp_path, monkeypatch):
    job = Job("table", "cross_entropy", 0, 2, 6, str(save_frozen(tmp_path / "model")), str(tmp_path / "jobs"))
    whole = carry_out(job) and job.result()
    job.path.unlink()
    train_step = PromptTraining.train_step

    def dies(self):
        if self.step == 4:
            raise KeyboardInterrupt
        train_step(self)
        self.save()

    monkeypatch.setattr(PromptTraining, "train_step", dies)
    with pytest.raises(KeyboardInterrupt):
        carry_out(job)
    monkeypatch.setattr(PromptTraining, "train_step", train_step)
    carry_out(job)
    again = job.result()
    assert again["log"] == whole["log"]
    assert again["right"] == whole["right"]
    assert not job.path.with_suffix(".pt").exists()


def test_a_result_of_other_settings_is_not_taken(tmp_path):
    job = Job("table", "cross_entropy", 0, 2, 6, "m", str(tmp_path))
    job.path.write_text(json.dumps({"job": {"steps": 7}}))
    with pytest.raises(ValueError, match="is a result of other settings"):
        assert job.done


@pytest.mark.parametrize(("words", "message"), [
    ({"rows": "cross_entrop"}, "Did you mean 'cross_entropy'"),
    ({"parts": "tabel"}, "Did you mean 'table'"),
])  # fmt: skip
def test_what_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        study.jobs_of(study.Options(**words))
