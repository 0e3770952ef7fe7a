"""Everything that an evaluation leaves on disk: metrics, per-query rows, a summary, TREC files and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stoical.common.files import file_sha256, staged, writing
from stoical.evaluation.intervals import BOOTSTRAP, metric_intervals
from stoical.evaluation.metrics import metrics_among
from stoical.evaluation.paper import NEAR_TIE
from stoical.evaluation.references import INPUT
from stoical.evaluation.result import Evaluation, References
from stoical.reporting.calibration import calibration_words, write_calibration
from stoical.reporting.evaluation_dir import (
    ASKED_FIGURES,
    FIGURES,
    METRICS_FILE,
    ORDER,
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
from stoical.reporting.tables import data_label, header, markdown, meaning, percent, reference_cells, score_unit
from stoical.reporting.trec import are_grades, write_trec
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
    notes = []
    if target is not None and any(row.logprobs for row in rows):
        notes += calibration_words(write_calibration(rows, target, directory, label))
    if evaluation.order is not None:
        (directory / ORDER).write_text(json.dumps(evaluation.order, indent=2) + "\n", encoding="utf-8")
        notes += order_words(evaluation.order)
    figures = [figure for figure in (*FIGURES, *ASKED_FIGURES) if (directory / figure).exists()]
    (directory / SUMMARY).write_text(summary(name, metrics, figures, notes), encoding="utf-8")
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
        "qrels": "grades" if are_grades(evaluation.rows) else "ranks",
        **_relevant_negatives(evaluation),
        **_references(evaluation.references),
    }


def _relevant_negatives(evaluation: Evaluation) -> dict[str, int]:
    """How many negatives count as relevant by their grades, where there are some and a metric reads that."""
    if not any(metric.by_relevance for metric in metrics_among(evaluation.metrics)):
        return {}
    above = float(evaluation.settings.get("relevant_above", 0.0))
    grades = [grade for row in evaluation.rows for grade in (row.grades or ())[row.num_listed :]]
    found = sum(grade is not None and grade > above for grade in grades)
    return {"relevant_negatives": found} if found else {}


def _references(found: References | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {"references": found.metrics, **({"bm25": found.bm25} if found.bm25 else {})}


def results_table(name: str, metrics: Mapping[str, Any]) -> str:
    """One evaluation as the paper's table, in per cent, with a row of 95% intervals and the reference rows."""
    columns = metrics_among(metrics, "tables")
    means = [name, *(percent(metrics[metric.name]) for metric in columns), str(metrics["num_queries"])]
    ranges = ["95% interval", *(interval(metrics["intervals"][metric.name]) for metric in columns), ""]
    references = [[*cells, ""] for cells in reference_cells(metrics, columns)]
    return markdown([header(columns, data_label([metrics])), means, ranges, *references])


def interval(pair: tuple[float, float]) -> str:
    """Two fractions in per cent."""
    return f"{percent(pair[0])} – {percent(pair[1])}"


def describe_scores(metrics: Mapping[str, Any]) -> str:
    """How documents were scored, in a few words."""
    if not score_unit(metrics["mode"]):
        return f"{metrics['mode'].replace('_', ' ')}, {metrics['score']}"
    end = "no terminator" if metrics["terminator"] == "none" else f"terminator {metrics['terminator']}"
    if metrics["terminator"] != "none":
        end += " counted" if metrics["count_terminator"] else " not counted"
    return f"mode {metrics['mode']}, {metrics['score']} of log-probabilities, {end}"


def _gains(metrics: Mapping[str, Any]) -> list[str]:
    """What nDCG gains, and what others find in the TREC files."""
    by_grade = metrics.get("qrels") == "grades"
    found = "the data's grades" if by_grade else "n + 1 − r"
    lines = [
        f"nDCG is section 5.1's: gains log(n + 2 − r) for rank r of n relevant documents. ir_measures and trec_eval "
        f"find another value in {RUN} and {QRELS}, whose relevances are {found}. docs/evaluation.md defines all."
    ]
    if "gains" in metrics:
        lines.append(f"Graded nDCG: on the data's grades, gains {metrics['gains']}.")
    if "relevant_above" in metrics:
        lines.append(f"Relevant: documents with a grade above {metrics['relevant_above']:g}.")
    return lines


def _references_said(metrics: Mapping[str, Any]) -> list[str]:
    """What the rows below the model's are."""
    if "references" not in metrics:
        return []
    said = ["Random order: the exact expectation over all orders."]
    if INPUT in metrics["references"]:
        said[0] += " Input order: as the prompts list the documents."
    said += [f"BM25 over the documents' texts: {metrics['bm25']}."] if metrics.get("bm25") else []
    return [*meaning(metrics), *said]


def order_words(found: Mapping[str, Any]) -> list[str]:
    """A line of the summary on how much the order in the prompt decides."""
    if found["flip_rate"] is None:
        return []
    ndcg = found["metrics"]["ndcg"]
    return [
        f"Order in the prompt, over {found['shuffles']} shuffles: nDCG {percent(ndcg['mean'])}% ± "
        f"{percent(ndcg['std'])} ({percent(ndcg['min'])} – {percent(ndcg['max'])}); two shuffles order "
        f"{percent(found['flip_rate'])}% of the pairs of documents differently, and put another document first for "
        f"{percent(found['first_flip_rate'])}% of the queries."
    ]


def summary(name: str, metrics: Mapping[str, Any], figures: list[str], notes: Sequence[str] = ()) -> str:
    """summary.md; `notes` are further lines of it."""
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
    lines += [f"- {line}" for line in (*_gains(metrics), *_references_said(metrics), *notes)]
    near = f"{NEAR_TIE:g} {score_unit(metrics['mode'])}".rstrip()
    lines.append(
        f"- Near-ties: {metrics['near_ties']:,} of {metrics['neighbours']:,} neighbouring scores are within "
        f"{near} of each other. Equal scores count against the model."
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
    lines += ["", *(f"![{(FIGURES | ASKED_FIGURES)[figure]}]({figure})" for figure in figures), ""]
    return "\n".join(lines)
