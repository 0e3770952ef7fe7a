"""SIGTERM while a run trains: the step ends, all is saved, and resuming gives the weights of a run left alone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from stoical.runs.checkpoints import last_checkpoint
from tests.support import forked, kill_runs
from tests.support.small_data import write_dataset

STEPS = 8


def every_fourth(given: list[str]) -> list[str]:
    """Saved every fourth step, so that no checkpoint is due where the signal comes."""
    return [word.replace("save_steps=1", "save_steps=4") for word in given]


@pytest.mark.parametrize("world", [1, 2])
def test_a_terminated_run_saves_exits_with_143_and_resumes_to_the_same_weights(tmp_path: Path, world: int) -> None:
    write_dataset(tmp_path / "data", train=20)
    log = tmp_path / "log"
    through, stopped = (every_fourth(kill_runs.words(tmp_path, name, STEPS)) for name in ("through", "stopped"))
    forked.finish(kill_runs.start(through, log, world=world), log)
    processes = kill_runs.start(stopped, log, hook=terminate_itself_at_step_two, world=world)
    for process in processes:
        process.join(120)
    assert {process.exitcode for process in processes} == {143}, log.read_text()[-2000:]
    assert "terminated: stopped and saved as" in log.read_text()
    saved = last_checkpoint(tmp_path / "stopped")
    assert saved is not None
    assert saved.name == f"checkpoint-{1 + world}"  # several processes share the news, and stop a step later
    forked.finish(kill_runs.start(stopped, log, world=world), log)
    ends = (tmp_path / name / f"checkpoint-{STEPS}" for name in ("through", "stopped"))
    assert kill_runs.same_weights(*ends)


def terminate_itself_at_step_two() -> None:
    """Have the first process send itself the signal in the middle of a step."""
    from stoical.training.trainer import StoicalTrainer

    inner = StoicalTrainer.compute_loss

    def compute_loss(trainer, *arguments, **kwargs):
        if trainer.state.global_step == 1 and trainer.is_world_process_zero():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        return inner(trainer, *arguments, **kwargs)

    StoicalTrainer.compute_loss = compute_loss
