"""The model card of a lookup encoder, and what `dry_run=true` shows of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stoical.baselines.items import Items, Pairs
from stoical.config.encoders import DualEncoderSettings, EncoderSettings
from stoical.config.recipe import Recipe
from stoical.data.dataset import load_split
from stoical.reporting.tables import metrics_table
from stoical.runs.model_card import CITATION, LAMBDA, data_section, training_section

DUAL = r"""$$\mathcal{L} = -\frac{1}{B} \sum_i \lambda(r_i) \log \frac{\exp(\langle E(q_i), E(d_i) \rangle / \tau)}
{\sum_j \exp(\langle E(q_i), E(d_j) \rangle / \tau)}$$"""
CROSS = r"""$$\mathcal{L} = -\sum_i \Big( \frac{\lambda(r_i)}{\sum_j \lambda(r_j)} \log \sigma(f(q_i, d_i))
+ \frac{1}{B} \log \sigma(-f(q_i, d_{\rho(i)})) \Big)$$"""


def card(recipe: Recipe, data: Mapping[str, Any], step: int, items: int, evaluation: Mapping[str, float] | None) -> str:
    """README.md of a run and of each of its checkpoints, after `step` steps."""
    settings = recipe.encoder
    assert settings is not None
    name = str(recipe.output).rpartition("/")[2]
    return "\n\n".join(
        [
            "---\nlibrary_name: stoical\ntags:\n- stoical\n- ranking\n---",
            f"# {name}\n\n{_what(settings, items)} Trained by stoical; a baseline of section 5.3 of "
            "[Autoregressive Ranking](https://arxiv.org/abs/2601.05588).",
            f"## Use it\n\n```bash\nstoical evaluate checkpoint={recipe.output}\n```\n\n`model.safetensors` has the "
            "table, `items.json` the names of its rows, in their order.",
            f"## The loss\n\n{loss_formula(recipe)}",
            f"## Evaluation\n\n{_evaluation(name, settings, evaluation)}",
            f"## Data\n\n{data_section(data)}",
            f"## Training\n\n{training_section(recipe, step)}",
            f"## Citation\n\n```bibtex\n{CITATION}\n```\n",
        ]
    )


def loss_formula(recipe: Recipe) -> str:
    """Eq. 13 or 14 with the recipe's lambda, as mathematics in markdown."""
    lam = LAMBDA[recipe.loss.item].replace("ALPHA", f"{recipe.loss.alpha or 0:g}")
    where = rf"$$\lambda(r) = {lam}$$" + "\n\nRanks r start at 1."
    if isinstance(recipe.encoder, DualEncoderSettings):
        return f"{DUAL}\n\n{where} τ = {recipe.encoder.temperature:g}; B pairs are a batch, and its documents the d_j."
    return f"{CROSS}\n\n{where} B pairs are a batch, and ρ a random permutation of it."


def _what(settings: EncoderSettings, items: int) -> str:
    rows = f"one table of {items:,} rows, which queries and documents share"
    if isinstance(settings, DualEncoderSettings):
        return f"A dual encoder: {rows}, of {settings.dim} numbers each. A score is the inner product of two rows."
    return (
        f"A cross encoder: {rows}, of {settings.dim} numbers each, below an MLP with {settings.hidden_layers} hidden "
        f"layers of {2 * settings.dim} units. A score is its output."
    )


def _evaluation(name: str, settings: EncoderSettings, found: Mapping[str, float] | None) -> str:
    if found is None:
        return "Not evaluated during training."
    metrics = {key.removeprefix("eval_"): value for key, value in found.items()}
    table = metrics_table([(name, metrics)])
    return f"{table}\n\n%, at step {found['step']}, on {metrics['num_queries']} queries of the test split."


def dry_run(recipe: Recipe) -> str:
    """The data as an encoder reads it, and its size; nothing is trained. Raises `ValueError` as training would."""
    assert recipe.encoder is not None
    train, test = load_split(recipe.data.path, "train"), load_split(recipe.data.path, "test")
    items = Items.of([train, test])
    pairs = Pairs.of(train, items, recipe.loss)
    query, doc, weight = pairs.batch(recipe.global_batch_size, 0, recipe.seed)
    shown = zip(query[:3].tolist(), doc[:3].tolist(), weight[:3].tolist(), strict=True)
    trained = set(pairs.query.tolist()) | set(pairs.doc.tolist())
    tested = [test[index].query for index in range(len(test))]
    new = sum(place not in trained for place in items.places(tested).tolist())
    size = len(items) * recipe.encoder.dim * 4 / 2**20
    return "\n".join(
        [
            f"{len(pairs):,} pairs, {len(pairs) // recipe.global_batch_size:,} steps an epoch",
            f"{len(items):,} items of {recipe.encoder.dim} numbers: {size:,.1f} MiB in float32",
            f"{new:,} of {len(test):,} test queries are in no training pair: their rows stay as they start",
            "the first pairs:",
            *(f"  {items.names[q]} > {items.names[d]}, lambda {w:g}" for q, d, w in shown),
        ]
    )
