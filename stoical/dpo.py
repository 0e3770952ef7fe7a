"""Direct preference optimization (DPO, Rafailov et al. 2023) from any checkpoint, by TRL.

  accelerate launch -m stoical.dpo checkpoint=RUN output=DIR [dpo.source=beam|ranking|free] [key=value ...]

checkpoint is a run (its last checkpoint is taken) or a checkpoint, of full weights or LoRA: policy and reference both
start there. The pairs come out of the training split, with the prompts that training begins with:

  dpo.source=beam      the first document above those that the checkpoint's own constrained beam search (dpo.num_beams)
                       puts before it
  dpo.source=ranking   documents above others: dpo.pairs=top (the first above each), adjacent or random
  dpo.source=free      the first document above what the checkpoint writes without constraint: greedily, or sampled with
                       dpo.temperature; up to dpo.max_new_tokens. For plain text, too: a row with one document.

dpo.per_query limits the pairs of a query, dpo.num_queries takes a sample of the queries; dpo.beta is 0.1. Other
settings are the checkpoint's (data.path, prompt, how evaluation scores); global_batch_size counts pairs. Of its
training section only precision and batch size go on; the rest is the method's, for training.* to change: RMSprop at
1e-6, 10% warm-up, linear decay, one epoch.

output becomes a run as train.py's are, with the pairs (pairs.parquet) and where they are from (pairs.json); resume=auto
goes on with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from stoical.arguments import micro_batches
from stoical.cli import run
from stoical.model_card import Method
from stoical.preference_job import Start, load_job
from stoical.preference_run import described, differences, keep_pairs, kept_pairs, made_from, make_pairs, train_on_pairs
from stoical.preferences import PairSettings
from stoical.resume import describe, resume_from
from stoical.run_dir import check_writable
from stoical.settings import Recipe

TRAINING: dict[str, Any] = {  # Rafailov et al. 2023, Appendix B: RMSprop at 1e-6 after warm-up, batches of 64, beta 0.1
    "optim": "rmsprop",
    "learning_rate": 1e-6,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,  # below 1: a share of the run
    "max_steps": -1,
    "num_train_epochs": 1,
    "logging_steps": 10,
    "eval_steps": 500,
    "save_steps": 500,
    "save_total_limit": 3,
}
METHOD = Method(
    "[direct preference optimization](https://arxiv.org/abs/2305.18290)",
    r"""$$\mathcal{L} = -\log \sigma\Big(\beta \log \frac{p_\theta(y_w \mid x)}{p_0(y_w \mid x)}
- \beta \log \frac{p_\theta(y_l \mid x)}{p_0(y_l \mid x)}\Big)$$

for pairs of a preferred output and another one for the prompt x; p_0 is the checkpoint that training started from.
Where the pairs are from, and β, are in the run's manifest.json, under `preferences`.""",
)


@dataclass
class DPOSettings(PairSettings):
    """beta: how much departing from the reference costs; the others say where pairs come from."""

    beta: float = 0.1

    def check(self, section: str, given: Sequence[str]) -> None:
        """As `PairSettings.check`, and for a beta that is no positive number."""
        PairSettings.check(self, section, given)
        check_beta(section, self.beta)


def check_beta(section: str, beta: float) -> None:
    """Raise `ValueError` where beta is not positive: the loss would not depend on the model, or teach the opposite."""
    if not 0 < beta < float("inf"):
        raise ValueError(f"{section}.beta={beta} must be a number above 0")


def main(arguments: Sequence[str]) -> None:
    """The command line of the module's docstring."""
    start, recipe, settings, given = load_job(arguments, "dpo", DPOSettings, TRAINING)
    settings.check("dpo", given)
    output = Path(str(recipe.output))
    check_writable(output)
    micro_batches(recipe)  # also joins the processes, whose number a resumed run must share
    checkpoint = resume_from(recipe)
    pairs, record = _pairs(recipe, start, settings, resumed=checkpoint is not None)
    if not len(pairs):
        raise ValueError(f"dpo.source={settings.source} finds no pairs to learn from ({described(record['counts'])})")
    keep_pairs(pairs, record, output)
    steps = train_on_pairs(recipe, start, settings.beta, pairs, METHOD, record, checkpoint)
    if PartialState().is_main_process:
        print(f"{described(record['counts'])}; trained {steps} steps, beta={settings.beta:g}")
        print(f"evaluate with: python evaluate.py checkpoint={output}")


def _pairs(recipe: Recipe, start: Start, settings: DPOSettings, resumed: bool) -> tuple[Dataset, dict[str, Any]]:
    """New pairs, or those of the run that is resumed. Raises `ValueError` where it was of other settings or weights."""
    kept = kept_pairs(Path(str(recipe.output))) if resumed else None
    if kept is None:
        return make_pairs(recipe, start, settings)
    changes = differences(kept[1], made_from(recipe, start, settings))
    if changes:
        raise ValueError(f"{recipe.output} was started with other pairs: {describe(changes)}; set another output=")
    return kept


if __name__ == "__main__":
    run(main, __doc__ or "", recipes=False)
