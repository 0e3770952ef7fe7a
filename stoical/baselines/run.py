"""One run of a lookup encoder: in the run directory, and with the resume, of every other training."""

from __future__ import annotations

import json
import math
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save_model
from tqdm import tqdm

from stoical.baselines.card import card
from stoical.baselines.encoders import Encoder, is_finite, new_encoder
from stoical.baselines.evaluation import WEIGHTS, EncoderEvaluator, load_encoder
from stoical.baselines.items import Items, Pairs, shuffle
from stoical.common.files import check_writable, json_object, write_whole, writing
from stoical.config.recipe import Recipe
from stoical.config.values import recipe_yaml
from stoical.data.dataset import load_split
from stoical.data.files import load_manifest
from stoical.evaluation.metrics import metrics_among
from stoical.runs.checkpoints import UNFINISHED, last_checkpoint, left_over, prune, publish
from stoical.runs.directory import start_run
from stoical.runs.lock import only_run
from stoical.runs.processes import join_processes
from stoical.runs.resume import fingerprint, resume_from, steps_done

STATE, OPTIMIZER = "trainer_state.json", "optimizer.pt"
NEGATIVES = 1  # beside the seed and the step, what the order of Eq. 14's negatives follows from


def train_encoder(recipe: Recipe) -> Path | None:
    """Train, or go on, or see that nothing is left to do; the run's last checkpoint.

    Raises `ValueError` as `resume_from` does, for several processes, and where a batch or a loss cannot be.
    """
    output = Path(str(recipe.output))
    check_writable(output)
    if join_processes(recipe) > 1:
        raise ValueError(
            "a lookup encoder trains in one process, since its batch is its negatives; start it without a launcher"
        )
    with only_run(output):
        checkpoint = resume_from(recipe)
        run = Run.start(recipe, checkpoint)
        if checkpoint is not None and run.done:
            if left_over(output):
                run.finish()
            print(f"{checkpoint} has done all {run.steps} steps; to train on, raise training.max_steps")
            return checkpoint
        start_run(recipe, run.fingerprint, checkpoint, recipe.global_batch_size, 1)
        run.train()
    print(f"trained {run.step} steps; evaluate with: stoical evaluate checkpoint={recipe.output}")
    return last_checkpoint(output)


@dataclass
class Run:
    """An encoder in training: `step` steps are done. All that a step draws follows from the seed and its number."""

    recipe: Recipe
    encoder: Encoder
    optimizer: torch.optim.Optimizer
    items: Items
    pairs: Pairs
    evaluator: EncoderEvaluator
    fingerprint: dict[str, Any]
    step: int = 0
    evaluations: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def start(cls, recipe: Recipe, checkpoint: Path | None) -> Run:
        """A new run, or one that continues from a checkpoint."""
        assert recipe.encoder is not None
        train, test = load_split(recipe.data.path, "train"), load_split(recipe.data.path, "test")
        if checkpoint is None:
            items = Items.of([train, test])
            encoder = new_encoder(len(items), recipe.encoder, recipe.seed)
        else:
            encoder, items = load_encoder(recipe, checkpoint)
        optimizer = encoder.optimizer(recipe.training["learning_rate"], recipe.training["weight_decay"])
        evaluator = EncoderEvaluator.of(recipe, test, items, recipe.eval.num_queries)
        pairs = Pairs.of(train, items, recipe.loss)
        run = cls(recipe, encoder, optimizer, items, pairs, evaluator, fingerprint(recipe))
        if checkpoint is not None:
            optimizer.load_state_dict(torch.load(checkpoint / OPTIMIZER, weights_only=True))
            run.step = steps_done(checkpoint)
            run.evaluations = json_object(checkpoint / STATE)["evaluations"]
        return run

    @property
    def steps(self) -> int:
        """How many the recipe asks for."""
        return int(self.recipe.training["max_steps"])

    @property
    def done(self) -> bool:
        """True where no step is left."""
        return self.step >= self.steps

    @property
    def output(self) -> Path:
        """The run directory."""
        return Path(str(self.recipe.output))

    def train(self) -> None:
        """Do the steps that are left, with what is due after each. SIGTERM saves, and ends with status 143."""
        bar = not self.recipe.training.get("disable_tqdm")
        with Reporter(self.output, self.step, self.steps, bar) as reporter, terminated() as received:
            while not self.done:
                reporter.add(self.one_step())
                if self.due("logging_steps"):
                    reporter.losses(self.step, self.recipe.global_batch_size)
                if self.recipe.training["eval_strategy"] == "steps" and self.due("eval_steps"):
                    self.evaluate(reporter)
                if self.due("save_steps") or received:
                    self.save()
                if received and not self.done:
                    said = f"terminated: saved after step {self.step}; resume=auto continues from there"
                    print(said, file=sys.stderr)
                    raise SystemExit(143)
        self.finish()

    def due(self, key: str) -> bool:
        """True after the last step, and every so many."""
        return self.done or self.step % int(self.recipe.training[key]) == 0

    def one_step(self) -> float:
        """One update; the loss (nats). Raises `ValueError` where it is not finite."""
        size, seed = self.recipe.global_batch_size, self.recipe.seed
        query, doc, weight = self.pairs.batch(size, self.step, seed)
        loss = self.encoder.loss(query, doc, weight, shuffle(size, seed, self.step, NEGATIVES))
        value = float(loss.detach())
        if not math.isfinite(value):
            self.refuse(f"the loss at step {self.step + 1} is {value}")
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.encoder.after_step()
        self.step += 1
        return value

    def refuse(self, what: str) -> NoReturn:
        """Raise `ValueError` for numbers that are not finite."""
        saved = last_checkpoint(self.output) or "none yet"
        raise ValueError(f"{what}; the last checkpoint is {saved}. Lower training.learning_rate")

    def evaluate(self, reporter: Reporter) -> None:
        """Metrics of the test split's sample, logged and kept for the model card."""
        found = {f"eval_{name}": value for name, value in self.evaluator(self.encoder).metrics.items()}
        self.evaluations.append({"step": self.step, **found})
        reporter.evaluation(self.step, found)

    def save(self) -> None:
        """Write a checkpoint aside, move it to its place, discard old ones. Raises `ValueError` as `refuse` does."""
        if not is_finite(self.encoder):
            self.refuse(f"weights are not finite after step {self.step}")
        name = f"checkpoint-{self.step}"
        staged = self.output / UNFINISHED / name
        with writing(staged):
            staged.mkdir(parents=True, exist_ok=True)
            save_model(self.encoder, str(staged / WEIGHTS))
            torch.save(self.optimizer.state_dict(), staged / OPTIMIZER)
            self.items.save(staged)
            (staged / "recipe.yaml").write_text(recipe_yaml(self.recipe), encoding="utf-8")
            state = {"global_step": self.step, "evaluations": self.evaluations}
            (staged / STATE).write_text(json.dumps(state), encoding="utf-8")
            (staged / "README.md").write_text(self.card(), encoding="utf-8")
        publish(staged, self.output / name, self.fingerprint)
        prune(self.output, self.recipe.training["save_total_limit"], None)

    def finish(self) -> None:
        """Write the run's model card, its last file; first what a run owed that was killed before it."""
        shutil.rmtree(self.output / UNFINISHED, ignore_errors=True)
        prune(self.output, self.recipe.training["save_total_limit"], None)
        write_whole(self.output / "README.md", self.card())

    def card(self) -> str:
        """The model card as of now."""
        data, last = load_manifest(self.recipe.data.path), self.evaluations[-1] if self.evaluations else None
        return card(self.recipe, data, self.step, len(self.items), last)


class Reporter:
    """A bar on a terminal, lines elsewhere, and metrics.jsonl."""

    def __init__(self, output: Path, step: int, steps: int, bar: bool) -> None:
        self.file, self.steps, self.first = output / "metrics.jsonl", steps, step
        self.started = self.since = time.perf_counter()
        self.summed, self.count = 0.0, 0
        shown = bar and sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=step, unit="step", dynamic_ncols=True) if shown else None

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *error: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def add(self, loss: float) -> None:
        """A step is done."""
        self.summed, self.count = self.summed + loss, self.count + 1
        if self.bar is not None:
            self.bar.update()

    def losses(self, step: int, pairs: int) -> None:
        """Log the mean loss (nats) since the last time, and the speed."""
        now = time.perf_counter()
        row = {"loss": self.summed / self.count, "steps_per_second": self.count / (now - self.since)}
        row["pairs_per_second"] = row["steps_per_second"] * pairs
        self.since, self.summed, self.count = now, 0.0, 0
        self._append(step, row)
        text = f"loss {row['loss']:.4g}, {row['pairs_per_second']:,.0f} pairs/s"
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        else:
            left = (now - self.started) / (step - self.first) * (self.steps - step)
            print(f"step {step}/{self.steps}  {text}, {tqdm.format_interval(left)} left", flush=True)

    def evaluation(self, step: int, found: dict[str, float]) -> None:
        """Log an evaluation."""
        self._append(step, found)
        names = [name.removeprefix("eval_") for name in found]
        parts = [f"{m.title} {100 * found[f'eval_{m.name}']:.1f}" for m in metrics_among(names, "tables")]
        tqdm.write(
            f"step {step}/{self.steps}  evaluation, % of {found['eval_num_queries']} queries: {'  '.join(parts)}"
        )
        self.since = time.perf_counter()

    def _append(self, step: int, row: dict[str, float]) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")


@contextmanager
def terminated() -> Iterator[list[int]]:
    """A list that SIGTERM adds to while the block runs; another thread's program handles its signals itself."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    earlier = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, earlier)
