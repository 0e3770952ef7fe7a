"""How long lists, prompts and docIDs are: Figure 3 of the SToICaL paper, for datasets as recipes read them.

  python -m stoical.reporting.histograms [recipes=wordnet_ntp,esci_ntp] [output=DIR] [key=value ...]

Reads both splits of each recipe's dataset with its prompt and tokenizer, before truncation, and writes
length_histograms.png and, with the counts of every bar, length_histograms.json to output=DIR (default:
runs/length_histograms). key=value settings, such as tokenizer.name=DIR, go to all recipes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stoical.build import build_encoder, build_tokenizer
from stoical.cli import run
from stoical.config import load_recipe, split_arguments
from stoical.data import load_split
from stoical.metrics import Ints
from stoical.reporting.figure import plt, save
from stoical.settings import Recipe

BINS = 50
PANELS = {
    "documents": "documents in the list",
    "prompt_tokens": "tokens of the prompt",
    "docid_tokens": "tokens of a docID",
}


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of all Q queries of a dataset: `documents` [Q] and `prompt_tokens` [Q]; `docid_tokens` [pairs], terminators
    included; `too_long` of the queries lose documents at `max_length`.
    """

    name: str
    documents: Ints
    prompt_tokens: Ints
    docid_tokens: Ints
    max_length: int
    too_long: int


def measure(recipe: Recipe) -> Lengths:
    """The lengths in both splits, with the prompt and tokenizer of the recipe. Negatives are left out."""
    tokenizer = build_tokenizer(recipe)
    encoder = replace(build_encoder(recipe, tokenizer), max_length=sys.maxsize)
    documents, prompts, docids, too_long = [], [], [], 0
    for split in ("train", "test"):
        rows = load_split(recipe.data.path, split)
        for row in tqdm((rows[i] for i in range(len(rows))), rows.name, total=len(rows), unit="query", disable=None):
            query = encoder.encode(row)
            tokens = [len(ids) for ids in query.docid_ids]
            documents.append(len(tokens))
            prompts.append(len(query.prompt_ids))
            docids += tokens
            too_long += len(query.prompt_ids) + max(tokens) > recipe.prompt.max_length
    name = Path(recipe.data.path).name
    lengths = np.array(documents), np.array(prompts), np.array(docids)
    return Lengths(name, *lengths, recipe.prompt.max_length, too_long)


def bars(values: Ints) -> tuple[Ints, Ints]:
    """Edges [K + 1] and counts [K] of at most BINS bars, equally wide; a bar holds its lower edge only."""
    low, high = int(values.min()), int(values.max()) + 1
    width = -(-(high - low) // BINS)
    edges = np.arange(low, high + width, width)
    return edges, np.histogram(values, edges)[0]


def describe(lengths: Lengths) -> dict[str, Any]:
    """What the JSON holds of a dataset: for each panel a summary, the edges of the bars and their counts."""
    found: dict[str, Any] = {
        "queries": len(lengths.documents),
        "max_length": lengths.max_length,
        "queries_over_max_length": lengths.too_long,
    }
    for panel in PANELS:
        values = getattr(lengths, panel)
        edges, counts = bars(values)
        summary = {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}
        found[panel] = summary | {
            "mean": round(float(values.mean()), 3),
            "edges": edges.tolist(),
            "counts": counts.tolist(),
        }
    return found


def plot_histograms(described: Mapping[str, Mapping[str, Any]], output: Path) -> None:
    """A row of panels for each dataset, by name, out of what `describe` gives, written to `output`."""
    figure, axes = plt.subplots(
        len(described), len(PANELS), figsize=(11, 0.6 + 2.4 * len(described)), squeeze=False, layout="constrained"
    )
    for line, (name, found) in zip(axes, described.items(), strict=True):
        for axis, (panel, label) in zip(line, PANELS.items(), strict=True):
            edges, counts = np.array(found[panel]["edges"]), found[panel]["counts"]
            axis.bar(edges[:-1] - 0.5, counts, width=np.diff(edges), align="edge")
            axis.axvline(found[panel]["mean"], color="black", linestyle="--", linewidth=1)
            axis.set(xlabel=label, title=f"mean {found[panel]['mean']:,.1f}, at most {found[panel]['max']:,}")
            axis.title.set_fontsize(9)
            axis.xaxis.get_major_locator().set_params(integer=True)
        line[0].set(ylabel=f"{name}\nqueries")
        line[-1].set(ylabel="(query, docID) pairs")
    save(figure, output)


def main(arguments: Sequence[str]) -> None:
    """The command line of the module's docstring."""
    values = split_arguments(arguments)
    recipes = values.pop("recipes", "wordnet_ntp,esci_ntp").split(",")
    output = Path(values.pop("output", "runs/length_histograms"))
    settings = [f"{key}={value}" for key, value in values.items()]
    measured = [measure(load_recipe([f"recipe={name}", *settings])) for name in recipes]
    described = {lengths.name: describe(lengths) for lengths in measured}
    plot_histograms(described, output / "length_histograms.png")
    (output / "length_histograms.json").write_text(json.dumps(described, indent=1) + "\n")
    for name, found in described.items():
        means = ", ".join(f"{label} {found[panel]['mean']:,.1f}" for panel, label in PANELS.items())
        over = f"{found['queries_over_max_length']:,} over {found['max_length']:,} tokens"
        print(f"{name}: {found['queries']:,} queries; means: {means}; {over}")
    print(f"written to {output}")


if __name__ == "__main__":
    run(main, __doc__ or "", recipes=False)
