"""Evaluate a checkpoint, or a recipe's untrained model, on a test split: from what the user gives to files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stoical.common.arguments import split_arguments
from stoical.common.files import check_writable
from stoical.config.loading import load_recipe
from stoical.config.recipe import Recipe
from stoical.runs.checkpoints import last_checkpoint
from stoical.runs.find import find_checkpoint, load_checkpoint

if TYPE_CHECKING:
    from stoical.evaluation.result import Evaluation


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """What to evaluate: recipe, directory for results, how many test queries (None: all), and an adapter if any."""

    recipe: Recipe
    output: Path
    num_queries: int | None
    adapter: Path | None

    @property
    def name(self) -> str:
        """The run's, for tables and figures."""
        return Path(str(self.recipe.output)).name


def evaluate(checkpoint: str | Path, *settings: str, progress: bool = False) -> Evaluation:
    """Score the test split with a run's last checkpoint, or with a checkpoint; nothing is written.

        stoical.evaluate("runs/wordnet_alpha2").metrics["ndcg"]
        stoical.evaluate("runs/wordnet_alpha2", "data.path=data/other", "eval.num_queries=200")

    settings: `key=value` words over the checkpoint's recipe. The whole split, unless eval.num_queries is among them.
    Every process calls it and gets the whole result. Raises `ValueError` for what is missing or does not fit.
    """
    return run_job(load_evaluation(str(checkpoint), split_arguments(settings)), progress)


def load_evaluation(checkpoint: str | None, settings: Mapping[str, str]) -> EvaluationJob:
    """What to evaluate: a checkpoint with settings over its recipe, or the untrained model of `settings["recipe"]`.

    Results go to `eval` in the run's directory. Beside it and not over it: a checkpoint that is not the run's last
    (`eval_checkpoint-500`), another mode than exact (`eval_greedy_path`), a sample of the queries (`eval_200`); or to
    `settings["output"]`. Raises `ValueError` where neither or both of checkpoint= and recipe= are given, and for a
    directory without a model.
    """
    values = dict(settings)
    if (checkpoint is not None) == ("recipe" in values):
        raise ValueError("give either checkpoint=DIR (a run or a checkpoint) or recipe=NAME (its untrained model)")
    if checkpoint is None:
        recipe, adapter, output = load_recipe(*(f"{key}={value}" for key, value in values.items())), None, None
        folder = Path(str(recipe.output)) / "eval"
    else:
        found, output = find_checkpoint(checkpoint), values.pop("output", None)
        recipe, adapter = load_checkpoint(found, values)
        folder = _results_of(found)
    num_queries = recipe.eval.num_queries if "eval.num_queries" in values else None
    mode = "" if recipe.eval.mode == "exact" else f"_{recipe.eval.mode}"
    sample = "" if num_queries is None else f"_{num_queries}"
    results = folder.with_name(folder.name + mode + sample)
    return EvaluationJob(recipe, Path(output) if output else results, num_queries, adapter)


def _results_of(checkpoint: Path) -> Path:
    """Where a checkpoint's results go: `eval` in its run is for the last one."""
    if not checkpoint.name.startswith("checkpoint-"):
        return checkpoint / "eval"
    is_last = last_checkpoint(checkpoint.parent) == checkpoint
    return checkpoint.parent / ("eval" if is_last else f"eval_{checkpoint.name}")


def run_job(job: EvaluationJob, progress: bool = False) -> Evaluation:
    """Load the model and score the split. Every process calls it and gets the whole result."""
    from accelerate import Accelerator

    from stoical.build.encoder import build_encoder, build_tokenizer
    from stoical.build.evaluator import build_evaluator
    from stoical.build.model import load_model
    from stoical.data.dataset import load_split
    from stoical.runs.processes import no_accelerator

    recipe = job.recipe
    precision = "bf16" if recipe.training.get("bf16") else "no"
    accelerator = Accelerator(mixed_precision=precision, cpu=no_accelerator())
    tokenizer = build_tokenizer(recipe)
    test = load_split(recipe.data.path, "test")
    evaluator = build_evaluator(recipe, test, build_encoder(recipe, tokenizer), job.num_queries)
    model = load_model(recipe, tokenizer, job.adapter).to(accelerator.device)
    with accelerator.autocast():
        return evaluator(model, progress=progress)


def write_results(evaluation: Evaluation, job: EvaluationJob) -> str:
    """Write the report, on the main process alone; the tables to print."""
    from stoical.reporting.generation import write_generation
    from stoical.reporting.mismatch import write_diagnostics
    from stoical.reporting.report import results_table, write_report

    recipe = job.recipe
    metrics = write_report(evaluation, job.output, job.name)
    tables = [results_table(job.name, metrics)]
    if recipe.eval.diagnostics:
        write_diagnostics(evaluation.rows, recipe.loss, job.output, job.name)
    if recipe.eval.generation:
        tables.append(write_generation(evaluation.rows, job.output, job.name))
    return "\n".join([*tables, f"written to {job.output}"])


def evaluate_and_report(job: EvaluationJob) -> None:
    """Evaluate with a progress bar, write the report and print its tables."""
    from accelerate import PartialState

    check_writable(job.output)
    evaluation = run_job(job, progress=sys.stderr.isatty())
    if PartialState().is_main_process:
        print(write_results(evaluation, job))
