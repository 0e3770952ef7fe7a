"""Everything that an evaluation leaves on disk: metrics, per-query rows, a summary, TREC files and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from stoical.common.files import file_sha256, staged, writing
from stoical.decoding.choices import Mode
from stoical.evaluation.intervals import BOOTSTRAP, metric_intervals
from stoical.evaluation.metrics import NEAR_TIE, metrics_among
from stoical.evaluation.result import Evaluation
from stoical.reporting.evaluation_dir import (
    FIGURES,
    METRICS_FILE,
    PER_QUERY,
    QRELS,
    RUN,
    SUMMARY,
    check_replaceable,
    evaluated_data,
)
from stoical.reporting.evaluation_figures import plot_metrics, plot_ndcg_breakdown, plot_rank_map, plot_valid_mass
from stoical.reporting.generation import write_generation
from stoical.reporting.mismatch import write_diagnostics
from stoical.reporting.tables import data_label, header, markdown, percent
from stoical.reporting.trec import write_trec
from stoical.trie.node_weights import TargetSettings


def write_report(
    evaluation: Evaluation, directory: Path, name: str, target: TargetSettings | None = None
) -> dict[str, Any]:
    """Write all files to `directory` and return what metrics.json holds; `name` is the run's.

    They appear together, in the place of an earlier evaluation's. Raises `ValueError` where they may not
    (`evaluation_dir.check_replaceable`) or cannot be written; what was there before still is. `target`, what
    the run trains on, goes with diagnostics, if the rows have any.
    """
    check_replaceable(directory, evaluation.data)
    with writing(directory), staged(directory) as draft:
        return _write(evaluation, draft, name, target)


def _write(evaluation: Evaluation, directory: Path, name: str, target: TargetSettings | None) -> dict[str, Any]:
    rows = evaluation.rows
    with (directory / PER_QUERY).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row.to_json()) + "\n" for row in rows)
    metrics = metrics_file(evaluation) | {"per_query_sha256": file_sha256(directory / PER_QUERY)}
    (directory / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    write_trec(rows, directory, f"{name}-{metrics['mode']}-{metrics['score']}")
    title = f"{name} on {evaluation.data}" if evaluation.data else name
    label = f"{title}\n{describe_scores(metrics)}"
    plot_metrics(metrics, title, directory / "metrics.png")
    plot_rank_map(rows, label, directory / "scores_by_rank.png")
    plot_ndcg_breakdown(rows, label, directory / "ndcg_by_length.png")
    if "valid_mass" in metrics:
        plot_valid_mass(rows, title, directory / "valid_mass.png")
    if target is not None and any(row.diagnostics for row in rows):
        write_diagnostics(rows, target, directory, title)
    if any(row.generation for row in rows):
        write_generation(rows, directory)
    figures = [figure for figure in FIGURES if (directory / figure).exists()]
    (directory / SUMMARY).write_text(summary(name, metrics, figures), encoding="utf-8")
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
        "data": asdict(evaluation.data) if evaluation.data else None,
        "intervals": found,
        "bootstrap": BOOTSTRAP,
    }


def results_table(name: str, metrics: Mapping[str, Any]) -> str:
    """One evaluation as the paper's table, in per cent, with a second row of 95% intervals."""
    columns = metrics_among(metrics, "tables")
    means = [name, *(percent(metrics[metric.name]) for metric in columns), str(metrics["num_queries"])]
    ranges = ["95% interval", *(interval(metrics["intervals"][metric.name]) for metric in columns), ""]
    return markdown([header(columns, data_label([metrics])), means, ranges])


def interval(pair: tuple[float, float]) -> str:
    """Two fractions in per cent."""
    return f"{percent(pair[0])} – {percent(pair[1])}"


def describe_scores(metrics: Mapping[str, Any]) -> str:
    """How documents were scored, in a few words."""
    if metrics["mode"] not in get_args(Mode):
        return f"{metrics['mode'].replace('_', ' ')}, {metrics['score']}"
    end = "no terminator" if metrics["terminator"] == "none" else f"terminator {metrics['terminator']}"
    if metrics["terminator"] != "none":
        end += " counted" if metrics["count_terminator"] else " not counted"
    return f"mode {metrics['mode']}, {metrics['score']} of log-probabilities, {end}"


def summary(name: str, metrics: Mapping[str, Any], figures: list[str]) -> str:
    """summary.md."""
    data = evaluated_data(metrics)
    lines = [f"# {name} on {data}" if data else f"# {name}", ""]
    lines += [f"Scores: {describe_scores(metrics)}. In per cent:", "", results_table(name, metrics), ""]
    if data:
        lines.append(f"- Data: {data}, SHA-256 {data.sha256}.")
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
        "- nDCG is section 5.1's: gains log(n + 2 − r) for rank r of n relevant documents. ir_measures and trec_eval "
        f"find another value in {RUN} and {QRELS}: they take the relevance there, n + 1 − r, as the gain. "
        "docs/evaluation.md defines both."
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
