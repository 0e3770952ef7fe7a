"""What a run says of itself: rates over the training alone, the bar, the lines, and a loss that is not finite."""

from __future__ import annotations

import io
import time

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from tqdm import tqdm
from transformers import TrainerControl, TrainerState

from stoical.encoding.packing import TrieTargetCollator
from stoical.training.loss_watch import LossWatch, broken_weights
from stoical.training.progress import LogLines, ProgressBar, bar_figures, describe_losses
from stoical.training.throughput import Throughput
from stoical.trie.node_weights import TargetSettings
from tests.support.random_queries import ragged_queries

LOG = {"loss": 1.23456, "tokens_per_second": 12345.6, "queries_per_second": 45.67, "epoch": 0.5}
EVALUATION = {"eval_cvr": 0.125, "eval_ndcg": 0.9, "eval_recall@1": 0.5, "eval_num_queries": 8.0, "epoch": 0.5}


@pytest.fixture
def accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(cpu=True)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told to."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def batch():
    return TrieTargetCollator(TargetSettings(item="stepwise"), pad_id=2, prune=False)(ragged_queries())["batch"]


def test_tokens_are_prompts_and_inner_nodes_without_padding(batch):
    queries = ragged_queries()
    inner = [len({tuple(ids[:n]) for ids in q.docid_ids for n in range(1, len(ids))}) for q in queries]
    assert batch.num_tokens == sum(len(q.prompt_ids) for q in queries) + sum(inner)
    assert batch.num_tokens < batch.input_ids.numel()


def test_rates_leave_out_evaluation_and_saving(accelerator, clock, batch):
    meter = Throughput()
    meter.on_train_begin()
    clock[0] += 3
    meter.on_evaluate()  # eval_on_start
    for _ in range(2):
        clock[0] += 2
        meter.count(batch)
        meter.on_step_end()
        clock[0] += 50
        meter.on_evaluate()
        clock[0] += 7
        meter.on_save()
    clock[0] += 1
    meter.count(batch)
    meter.on_step_end()
    rates = meter.since_last_log(accelerator)
    real = batch.num_tokens / batch.input_ids.numel()
    expected = {"tokens_per_second": 3 * batch.num_tokens / 5, "queries_per_second": 9 / 5, "real_tokens": real}
    assert rates == pytest.approx(expected)
    clock[0] += 20
    meter.on_evaluate()  # at a step that was logged
    clock[0] += 4
    meter.count(batch)
    meter.on_step_end()
    assert meter.since_last_log(accelerator)["queries_per_second"] == pytest.approx(3 / 4)


def test_figures_beside_the_bar_and_in_lines():
    figures = bar_figures(LOG) | bar_figures(EVALUATION)
    assert list(figures.values()) == ["loss 1.235", "12,346 tokens/s", "45.67 queries/s", "CVR 12.5%"]
    assert describe_losses(LOG) == "loss 1.235  tokens/s 12,346  queries/s 45.67"


class Arguments:
    disable_tqdm = False


def test_one_bar_on_the_main_process_keeps_the_last_evaluation(monkeypatch, capsys):
    shown = io.StringIO()
    monkeypatch.setattr(
        "stoical.training.progress.tqdm", lambda **kwargs: tqdm(**kwargs | {"file": shown, "ncols": 200})
    )
    control = TrainerControl()
    for main in (True, False):
        state = TrainerState(max_steps=20, global_step=10, is_world_process_zero=main)
        bar = ProgressBar()
        bar.on_train_begin(Arguments, state, control)
        bar.on_log(Arguments, state, control, logs=EVALUATION)
        for _ in range(2):
            state.global_step += 1
            bar.on_step_end(Arguments, state, control)
        bar.on_log(Arguments, state, control, logs=LOG)
        bar.on_train_end(Arguments, state, control)
        if main:
            last = shown.getvalue().rstrip().split("\r")[-1]
            assert "12/20" in last
            assert all(figure in last for figure in ("loss 1.235", "12,346 tokens/s", "45.67 queries/s", "CVR 12.5%"))
    assert shown.getvalue().rstrip().split("\r")[-1] == last


@pytest.mark.parametrize(("bar", "lines"), [(True, 1), (False, 2)])
def test_lines_say_losses_only_without_a_bar(capsys, bar, lines):
    arguments = type("", (), {"disable_tqdm": not bar})
    state, said = TrainerState(max_steps=20, global_step=10, is_world_process_zero=True), LogLines()
    said.on_train_begin(arguments, state, TrainerControl())
    state.global_step = 15
    for logs in (LOG, EVALUATION):
        said.on_log(arguments, state, TrainerControl(), logs=logs)
    out = capsys.readouterr().out.splitlines()
    assert len(out) == lines
    assert out[-1] == "step 15/20  evaluation, % of 8 queries: CVR 12.5  nDCG 90.0  R@1 50.0"
    assert bar or out[0].endswith("00:00 left")


def test_a_broken_loss_is_traced_to_the_first_step_and_all_its_queries(accelerator):
    watch = LossWatch()
    assert watch.first_broken(accelerator) is None
    losses = [(1, "1", ("a",)), (2, "inf", ("b", "c")), (2, "nan", ("d",)), (3, "nan", ("e",))]
    for step, value, queries in losses:
        watch.add(torch.tensor(float(value)), step, queries)
    broken = watch.first_broken(accelerator)
    assert broken is not None
    assert (broken.what, broken.step, broken.query_ids) == ("the loss is inf", 2, ("b", "c", "d"))
    assert watch.first_broken(accelerator) is None


def test_a_broken_gradient_of_finite_losses_is_traced_to_its_step(accelerator):
    """The next loss would be the first to show it, after the step had made every weight NaN."""
    watch = LossWatch()
    for step, norm, queries in [(1, 1.0, ("a",)), (2, float("inf"), ("b", "c")), (3, 1.0, ("d",))]:
        watch.add(torch.tensor(1.0), step, queries)
        watch.add_norm(torch.tensor(norm), step)
    broken = watch.first_broken(accelerator)
    assert broken is not None
    assert (broken.what, broken.step, broken.query_ids) == ("the gradient's norm is inf", 2, ("b", "c"))


def test_weights_that_are_not_finite_are_named(accelerator):
    model = torch.nn.Linear(2, 2)
    assert broken_weights(model, accelerator) == []
    with torch.no_grad():
        model.bias[1] = float("nan")
    assert broken_weights(model, accelerator) == ["bias"]
