"""Evaluate a checkpoint, or a recipe's untrained model, on a test split: from what the user gives to files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from stoical.common.arguments import split_arguments
from stoical.common.time_spent import TimeSpent, command_start
from stoical.config.loading import load_recipe, read_layer
from stoical.config.recipe import Recipe
from stoical.data.files import load_manifest, split_sha256
from stoical.runs.checkpoints import last_checkpoint
from stoical.runs.find import find_checkpoint, is_encoder, load_checkpoint

if TYPE_CHECKING:
    from stoical.evaluation.result import EvaluatedData, Evaluation


APART = {  # settings that make other results of a run -> how these are called
    "eval.score": "_{}",
    "prompt.template": "_{}",
    "prompt.max_length": "_max_length_{}",
    "seed": "_seed_{}",
}


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """What to evaluate: recipe, directory for results, how many test queries (None: all), and an adapter if any.

    name: the run's, for tables and figures. encoder: of a lookup encoder's recipe its checkpoint; None for the
    untrained one.
    """

    name: str
    recipe: Recipe
    output: Path
    num_queries: int | None
    adapter: Path | None
    encoder: Path | None = None

    @property
    def data(self) -> EvaluatedData:
        """The split that is scored, as it is on disk."""
        from stoical.evaluation.result import EvaluatedData

        return EvaluatedData.of(self.recipe.data.path, "test")


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
    (`eval_checkpoint-500`), other data than the run's (`eval_mammal`), another mode than exact (`eval_greedy_path`),
    another score, prompt or seed than the run's (`eval_sum`, `eval_max_length_512`), a sample of the queries
    (`eval_200`), the untrained model of a recipe whose run has been trained (`eval_untrained`); or to
    `settings["output"]`. Raises `ValueError` where neither or both of checkpoint= and recipe= are given, and for a
    directory without a model.
    """
    values, encoder, changed = dict(settings), None, ""
    if (checkpoint is not None) == ("recipe" in values):
        raise ValueError("give either checkpoint=DIR (a run or a checkpoint) or recipe=NAME (its untrained model)")
    if checkpoint is None:
        recipe, adapter, output = load_recipe(*(f"{key}={value}" for key, value in values.items())), None, None
        trained = last_checkpoint(str(recipe.output)) is not None
        run = Path(str(recipe.output))
        folder = run / ("eval_untrained" if trained else "eval")
    else:
        found, output = find_checkpoint(checkpoint, encoders=True), values.pop("output", None)
        recipe, adapter = load_checkpoint(found, values)
        encoder = found if is_encoder(found) else None
        folder, run = _results_of(found), _run_of(found).resolve()  # the recipe has the name that it was trained under
        changed = _changed(found, values)
        if _is_other(recipe.data.path, found):
            folder = folder.with_name(f"{folder.name}_{Path(recipe.data.path).resolve().name}")
    num_queries = recipe.eval.num_queries if "eval.num_queries" in values else None
    mode = "" if recipe.eval.mode == "exact" else f"_{recipe.eval.mode}"
    sample = "" if num_queries is None else f"_{num_queries}"
    results = folder.with_name(folder.name + mode + changed + sample)
    return EvaluationJob(run.name, recipe, Path(output) if output else results, num_queries, adapter, encoder)


def _results_of(checkpoint: Path) -> Path:
    """Where a checkpoint's results go: `eval` in its run is for the last one."""
    run = _run_of(checkpoint)
    is_last = run == checkpoint or last_checkpoint(run) == checkpoint
    return run / ("eval" if is_last else f"eval_{checkpoint.name}")


def _run_of(checkpoint: Path) -> Path:
    """The run's directory; a model that is in no run, as one that was exported, is its own."""
    return checkpoint.parent if checkpoint.name.startswith("checkpoint-") else checkpoint


def _is_other(data: str, checkpoint: Path) -> bool:
    """True where `data` is not the data set of the checkpoint's run: neither its directory nor its test split."""
    own = _own(checkpoint, "data.path")
    if own is None or Path(data).resolve() == Path(str(own)).resolve():
        return False
    return split_sha256(data, "test") != _own_sha256(checkpoint.parent)


def _changed(checkpoint: Path, values: Mapping[str, str]) -> str:
    """The end of the results' name where `values` are not the run's own: they would be other results."""
    end = ""
    for key, form in APART.items():
        own = _own(checkpoint, key)
        if key in values and own is not None and values[key] != str(own):
            end += form.format(Path(values[key]).stem)
    return end


def _own(checkpoint: Path, key: str) -> Any:
    """A setting of the checkpoint's recipe; None where that says nothing."""
    return OmegaConf.select(read_layer(checkpoint / "recipe.yaml")[1], key)


def _own_sha256(run: Path) -> str | None:
    """The SHA-256 of the test split in a run's manifest; None where that says nothing."""
    try:
        sums = load_manifest(run).get("data_sha256")
    except ValueError:
        return None
    return sums.get("test") if isinstance(sums, dict) else None


def run_job(job: EvaluationJob, shown: bool = False, spent: TimeSpent | None = None) -> Evaluation:
    """Load the model and score the split. Every process calls it and gets the whole result. spent: gets the times."""
    if job.recipe.encoder is not None:
        from stoical.baselines.evaluation import evaluate_encoder

        return replace(evaluate_encoder(job.recipe, job.encoder, job.num_queries, shown), data=job.data)
    from accelerate import Accelerator

    from stoical.build.encoder import build_encoder, build_tokenizer
    from stoical.build.evaluator import build_evaluator
    from stoical.build.model import load_model
    from stoical.data.dataset import load_split
    from stoical.evaluation.order_sensitivity import order_sensitivity, shuffled_evaluations
    from stoical.evaluation.references import reference_rows
    from stoical.models.self_check import check_loaded
    from stoical.runs.processes import no_accelerator

    recipe, spent = job.recipe, spent or TimeSpent()
    precision = "bf16" if recipe.training.get("bf16") else "no"
    accelerator = Accelerator(mixed_precision=precision, cpu=no_accelerator())
    tokenizer = build_tokenizer(recipe)
    test = load_split(recipe.data.path, "test")
    evaluator = build_evaluator(recipe, test, build_encoder(recipe, tokenizer), job.num_queries)
    model = load_model(recipe, tokenizer, job.adapter).to(accelerator.device)
    check_loaded(model, len(tokenizer), recipe.prompt.max_length, recipe.layout, precision == "bf16")
    spent.all_so_far("start")
    with accelerator.autocast():
        evaluation = evaluator(model, shown, spent)
        others = shuffled_evaluations(evaluator, model, recipe.eval.shuffles, shown, spent)
    references = reference_rows(
        evaluation.rows, test, recipe.seed, recipe.eval.recall_at, evaluator.asked, evaluator.grading, shown
    )
    order = order_sensitivity([evaluation, *others]) if others else None
    return replace(evaluation, data=job.data, references=references, order=order)


def write_results(evaluation: Evaluation, job: EvaluationJob) -> str:
    """Write the report, on the main process alone; the tables to print."""
    from stoical.reporting.generation import generation_table, summarise_generation
    from stoical.reporting.report import results_table, write_report
    from stoical.reporting.tables import data_label, meaning

    metrics = write_report(evaluation, job.output, job.name, job.recipe.loss)
    tables = [results_table(job.name, metrics), *meaning(metrics)]
    if job.recipe.eval.generation:
        found = summarise_generation(evaluation.rows)
        tables.append(generation_table([(job.name, found)], data_label([metrics])))
    return "\n".join([*tables, f"written to {job.output}"])


def evaluate_and_report(job: EvaluationJob) -> None:
    """Evaluate with a progress bar, write the report and print its tables, and what the time was spent on."""
    from accelerate import PartialState

    from stoical.reporting.evaluation_dir import check_replaceable

    check_replaceable(job.output, job.data)
    spent = TimeSpent(command_start())
    evaluation = run_job(job, shown=True, spent=spent)
    if PartialState().is_main_process:
        with spent.on("writing"):
            said = write_results(evaluation, job)
        print(said, spent, sep="\n")
