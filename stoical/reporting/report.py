"""Everything that an evaluation leaves on disk: metrics, per-query rows, a summary, TREC files and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stoical.evaluation.intervals import BOOTSTRAP, FEW, metric_intervals
from stoical.evaluation.metrics import NEAR_TIE, metrics_among
from stoical.evaluation.result import Evaluation
from stoical.reporting.evaluation_figures import plot_metrics, plot_ndcg_breakdown, plot_rank_map, plot_valid_mass
from stoical.reporting.generation import GENERATION
from stoical.reporting.mismatch import DIAGNOSTICS
from stoical.reporting.tables import header, markdown, percent
from stoical.reporting.trec import write_trec

FIGURES = {
    "metrics.png": "the paper's metrics, with 95% intervals",
    "scores_by_rank.png": "mean score by gold rank and length of the list",
    "ndcg_by_length.png": f"nDCG by length of the list and of the top docID, with intervals from {FEW} queries on",
    "valid_mass.png": "probability on valid tokens, along the top docID",
}


def write_report(evaluation: Evaluation, directory: Path, name: str) -> dict[str, Any]:
    """Write all files to `directory`, which is made, and return what metrics.json holds; `name` is the run's.

    What an earlier evaluation left there is overwritten.
    """
    directory.mkdir(parents=True, exist_ok=True)
    rows, metrics = evaluation.rows, metrics_file(evaluation)
    (directory / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    with (directory / "per_query.jsonl").open("w") as file:
        file.writelines(json.dumps(row.to_json()) + "\n" for row in rows)
    write_trec(rows, directory, f"{name}-{metrics['mode']}-{metrics['score']}")
    for stale in (*FIGURES, *DIAGNOSTICS, GENERATION):
        (directory / stale).unlink(missing_ok=True)
    label = f"{name}: {describe_scores(metrics)}"
    plot_metrics(metrics, name, directory / "metrics.png")
    plot_rank_map(rows, label, directory / "scores_by_rank.png")
    plot_ndcg_breakdown(rows, label, directory / "ndcg_by_length.png")
    if "valid_mass" in metrics:
        plot_valid_mass(rows, name, directory / "valid_mass.png")
    figures = [figure for figure in FIGURES if (directory / figure).exists()]
    (directory / "summary.md").write_text(summary(name, metrics, figures), encoding="utf-8")
    return metrics


def metrics_file(evaluation: Evaluation) -> dict[str, Any]:
    """metrics.json: flat means and counts (fractions), how documents were scored, and 95% bootstrap intervals."""
    names = [metric.name for metric in metrics_among(evaluation.metrics)]
    found = metric_intervals([row.metrics for row in evaluation.rows], names)
    neighbours = sum(len(row.docids) - 1 for row in evaluation.rows)
    return {
        **evaluation.metrics,
        "neighbours": neighbours,
        **evaluation.settings,
        "intervals": found,
        "bootstrap": BOOTSTRAP,
    }


def results_table(name: str, metrics: Mapping[str, Any]) -> str:
    """One evaluation as the paper's table, in per cent, with a second row of 95% intervals."""
    columns = metrics_among(metrics, "tables")
    means = [name, *(percent(metrics[metric.name]) for metric in columns), str(metrics["num_queries"])]
    ranges = ["95% interval", *(interval(metrics["intervals"][metric.name]) for metric in columns), ""]
    return markdown([header(columns), means, ranges])


def interval(pair: tuple[float, float]) -> str:
    """Two fractions in per cent."""
    return f"{percent(pair[0])} – {percent(pair[1])}"


def describe_scores(metrics: Mapping[str, Any]) -> str:
    """How documents were scored, in a few words."""
    end = "no terminator" if metrics["terminator"] == "none" else f"terminator {metrics['terminator']}"
    if metrics["terminator"] != "none":
        end += " counted" if metrics["count_terminator"] else " not counted"
    return f"mode {metrics['mode']}, {metrics['score']} of log-probabilities, {end}"


def summary(name: str, metrics: Mapping[str, Any], figures: list[str]) -> str:
    """summary.md."""
    lines = [f"# {name}", "", f"Scores: {describe_scores(metrics)}. In per cent:", "", results_table(name, metrics), ""]
    if "valid_mass" in metrics:
        mass, ranges = metrics["valid_mass"], metrics["intervals"]["valid_mass"]
        lines.append(
            f"- The model writes one of the query's docIDs with probability {percent(mass)}% ({interval(ranges)})."
        )
        lines.append(
            f"- Free runs: what constrained beam search finds ({metrics['num_beams']} beams) has nDCG "
            f"{percent(metrics['free_run_ndcg'])}% ({interval(metrics['intervals']['free_run_ndcg'])}); unconstrained "
            f"greedy decoding writes none of the docIDs and negatives for {percent(metrics['invalid_rate'])}% of the "
            f"queries ({interval(metrics['intervals']['invalid_rate'])})."
        )
    lines.append(
        f"- Near-ties: {metrics['near_ties']:,} of {metrics['neighbours']:,} neighbouring scores are within "
        f"{NEAR_TIE:g} nats of each other. Equal scores count against the model."
    )
    if metrics["dropped_docs"]:
        lines.append(f"- {metrics['dropped_docs']:,} documents did not fit into the prompt and were left out.")
    lines.append(
        f"- Intervals: percentile bootstrap over the queries ({BOOTSTRAP['resamples']:,} resamples, seed "
        f"{BOOTSTRAP['seed']}). They say nothing about another training seed."
    )
    flat = [metric.column for metric in metrics_among(metrics, "tables") if metrics[metric.name] in (0, 1)]
    if flat:
        lines.append(
            f"- {', '.join(flat)}: the same for every query, so the interval has no width. Up to 3 in n other queries "
            "may still differ (rule of three, n queries)."
        )
    lines += ["", *(f"![{FIGURES[figure]}]({figure})" for figure in figures), ""]
    return "\n".join(lines)
