"""The study's two tables, and the settings behind them, in markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from stoical.common.arrays import Floats
from stoical.common.options import keys_of
from stoical.reporting.tables import markdown
from stoical.studies.mismatch.settings import CompatSettings, ExactSettings, MismatchSettings
from stoical.studies.mismatch.statistics import Difference, half_width, holm, paired

Measured = Mapping[str, Floats]
Rows = Mapping[str, Measured]

PAPER = {  # Table 1 and section 3.3
    "Teacher Forcing": {
        "ar_quality": 0.0547,
        "tf_quality": 0.0623,
        "mismatch": -0.0278,
        "kl_first": 0.0286,
        "loss": 0.0358,
        "first": 0.0517,
    },
    "Sched. Sampling": {
        "ar_quality": 0.0539,
        "tf_quality": 0.0609,
        "mismatch": -0.0285,
        "kl_first": 0.0286,
        "loss": 0.0134,
        "first": 0.0567,
    },
    "Consistency Reg.": {
        "ar_quality": 0.0691,
        "tf_quality": 0.0620,
        "mismatch": -0.0287,
        "kl_first": 0.0286,
        "loss": 0.0337,
        "first": 0.0650,
    },
}


@dataclass(frozen=True, slots=True)
class Column:
    """A measure as a column: its title, digits, what it is multiplied by, and which way is better (0: neither)."""

    name: str
    title: str
    digits: int = 4
    times: float = 1.0
    better: int = 0


COMPAT = (
    Column("ar_quality", "AR quality", better=1),
    Column("tf_quality", "TF quality", better=1),
    Column("mismatch", "mismatch"),
    Column("kl_first", "KL at t = 1"),
    Column("loss", "final loss"),
    Column("first", "AR quality, first replication", better=1),
    Column("docid_accuracy", "whole docID right", better=1),
    Column("relevant", "a relevant docID", better=1),
    Column("alive_end", "alive at the end"),
)
EXACT = (
    Column("ndcg", "nDCG (↑)", 2, 100, 1),
    Column("recall@1", "R@1 (↑)", 1, 100, 1),
    Column("recall@5", "R@5 (↑)", 1, 100, 1),
    Column("greedy_recall@1", "greedy R@1 (↑)", 1, 100, 1),
    Column("expected_gain", "expected gain (↑)", 1, 100, 1),
    Column("docid_kl", "KL(π ‖ p), nats (↓)", 2, 1, -1),
    Column("mismatch", "mismatch, nats", 3),
    Column("tv_end", "TV of docIDs (↓)", 1, 100, -1),
    Column("valid_mass", "valid mass (↑)", 1, 100, 1),
    Column("invalid_rate", "invalid (↓)", 1, 100, -1),
    Column("token_accuracy", "TF accuracy (↑)", 1, 100, 1),
)


def compat_table(rows: Rows) -> str:
    """Block 1: a row a method, means with half a 95% interval, the paper's number in brackets."""
    body = []
    for name, measured in rows.items():
        paper = PAPER.get(name, {})
        cells = []
        for column in COMPAT:
            values = _column(measured, column.name)
            text = "–" if values is None else _mean(values, column)
            theirs = paper.get(column.name)
            cells.append(text if theirs is None else f"{text} [{theirs:.4f}]")
        body.append([name, *cells])
    return markdown([["", *(column.title for column in COMPAT)], *body])


def compat_differences(rows: Rows, column: str) -> dict[str, Difference]:
    """A measure of the two other methods less teacher forcing's, paired, with Holm's correction."""
    first, *others = PAPER
    return holm({name: paired(rows[name][column], rows[first][column]) for name in others})


def exact_table(rows: Rows, compared: Mapping[str, Mapping[str, Difference]]) -> str:
    """Block 2: a row a method, paired differences to the reference method with half a 95% interval; its own means.

    `compared`: column to method to difference. Bold is better, italics worse, both after Holm's correction.
    """
    body = []
    for name, measured in rows.items():
        cells = []
        for column in EXACT:
            difference = compared[column.name].get(name)
            values = _column(measured, column.name)
            assert values is not None
            cells.append(_mean(values, column) if difference is None else _difference(difference, column))
        count = len(measured["ndcg"])
        body.append([name, *cells, str(count)])
    titles = [column.title for column in EXACT]
    return markdown([["", *titles, "replications"], *body])


def compare(rows: Rows, references: Sequence[str]) -> dict[str, dict[str, Difference]]:
    """Column to method to its paired difference from the first row that is none of `references`."""
    reference, *others = [name for name in rows if name not in references]
    found: dict[str, dict[str, Difference]] = {}
    for column in EXACT:
        theirs = _column(rows[reference], column.name)
        assert theirs is not None
        ours = {name: _column(rows[name], column.name) for name in others}
        found[column.name] = holm(
            {name: paired(values, theirs[: len(values)]) for name, values in ours.items() if values is not None}
        )
    return found


def _column(measured: Measured, name: str) -> Floats | None:
    """The values of a column, [R]; the last position's for `NAME_end`, the first replication's for `first`."""
    if name == "first":
        return measured["ar_quality"][:1]
    if name.endswith("_end"):
        return measured[name.removesuffix("_end")][:, -1]
    return measured.get(name)


def _mean(values: Floats, column: Column) -> str:
    mean = f"{column.times * values.mean():.{column.digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {column.times * half_width(values):.{column.digits}f}"


def _difference(one: Difference, column: Column) -> str:
    text = f"{column.times * one.mean:+.{column.digits}f} ± {column.times * one.half:.{column.digits}f}"
    if not one.significant or not column.better:
        return text
    mark = "**" if one.mean * column.better > 0 else "*"
    return f"{mark}{text}{mark}"


def settings_table(settings: MismatchSettings, section: str) -> str:
    """Every setting of a block, its value and what it is: nothing is left to be guessed."""
    kinds: dict[str, type] = {"compat": CompatSettings, "exact": ExactSettings, "": MismatchSettings}
    values = asdict(settings)[section] if section else asdict(settings)
    rows = [
        [f"`{section}.{key.name}`" if section else f"`{key.name}`", str(values[key.name]), key.help]
        for key in keys_of(kinds[section])
        if "." not in key.name
    ]
    return markdown([["setting", "value", "what it is"], *rows])
