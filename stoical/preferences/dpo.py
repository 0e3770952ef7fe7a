"""Direct preference optimization (DPO, Rafailov et al. 2023) from any checkpoint, by TRL: the pairs, and the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from stoical.common.differences import describe
from stoical.common.files import check_writable
from stoical.config.recipe import Recipe
from stoical.preferences.run import (
    changed_origin,
    described,
    keep_pairs,
    kept_pairs,
    made_from,
    make_pairs,
    train_on_pairs,
)
from stoical.preferences.settings import DPOSettings
from stoical.preferences.start import Start
from stoical.runs.lock import only_run
from stoical.runs.model_card import CardMethod
from stoical.runs.processes import join_processes
from stoical.runs.resume import resume_from
from stoical.training.arguments import micro_batches

METHOD = CardMethod(
    "[direct preference optimization](https://arxiv.org/abs/2305.18290)",
    r"""$$\mathcal{L} = -\log \sigma\Big(\beta \log \frac{p_\theta(y_w \mid x)}{p_0(y_w \mid x)}
- \beta \log \frac{p_\theta(y_l \mid x)}{p_0(y_l \mid x)}\Big)$$

for pairs of a preferred output and another one for the prompt x; p_0 is the checkpoint that training started from.
Where the pairs are from, and β, are in the run's manifest.json, under `preferences`.""",
)


def run_dpo(recipe: Recipe, start: Start, settings: DPOSettings) -> None:
    """Make the pairs, or take those of the run that is resumed, and train on them. Every process calls this."""
    output = Path(str(recipe.output))
    check_writable(output)
    micro_batches(recipe, join_processes(recipe))
    with only_run(output):
        checkpoint = resume_from(recipe)
        pairs, record = _pairs(recipe, start, settings, resumed=checkpoint is not None)
        if not len(pairs):
            found = described(record["counts"])
            raise ValueError(f"dpo.source={settings.source} finds no pairs to learn from ({found})")
        keep_pairs(pairs, record, output)
        steps = train_on_pairs(recipe, start, settings.beta, pairs, METHOD, record, checkpoint)
    if PartialState().is_main_process:
        print(f"{described(record['counts'])}; trained {steps} steps, beta={settings.beta:g}")
        print(f"evaluate with: stoical evaluate checkpoint={output}")


def _pairs(recipe: Recipe, start: Start, settings: DPOSettings, resumed: bool) -> tuple[Dataset, dict[str, Any]]:
    """New pairs, or those of the run that is resumed. Raises `ValueError` where it was of other settings or weights."""
    kept = kept_pairs(Path(str(recipe.output))) if resumed else None
    if kept is None:
        return make_pairs(recipe, start, settings)
    changes = changed_origin(kept[1], made_from(recipe, start, settings))
    if changes:
        raise ValueError(f"{recipe.output} was started with other pairs: {describe(changes)}; set another output=")
    return kept
