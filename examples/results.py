"""Every figure and table of the papers out of the files that runs wrote: `make figures`, `make tables`.

  python -m examples.results figures [out=runs/figures]
  python -m examples.results tables

Nothing is trained. A result whose files are not there is named with the command that writes them. For some of those
that the project's pages show, the files ship with the project and stand in for a run of your own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

from stoical.commands.shell import Command, Given, execute
from stoical.common.fields import unknown
from stoical.common.files import check_writable, json_object
from stoical.common.options import option

KINDS = ("figures", "tables")
BASH = {
    "beta": "check=beta",
    "text": "check=text steps=200",
    **dict.fromkeys(("small", "medium", "large"), "check=size"),
}
SHIPPED = "benchmarks/results"
FIGURE_4 = ("runs/figure4/mammal*/*/eval/metrics.json",)
TABLES = ("runs/tables/tables.json", f"{SHIPPED}/tables.json")
CAPACITY = ("runs/capacity/results.json",)
CAPACITY_PARTS = {
    "ceilings": "orders that free embeddings have right",
    "ranker": "orders of a small autoregressive ranker",
    "limit": "LIMIT's critical n",
}
Make = TypeVar("Make", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Result(Generic[Make]):
    """A figure or a table: its title, the files it is made of (patterns; the first that is there is taken, none needs
    no file), the command that writes them, and how it is made: of that file, a figure also of where it goes.
    """

    title: str
    sources: tuple[str, ...]
    command: str
    make: Make

    def source(self) -> Path | None:
        """The file to make it of, or None where no run has written one."""
        found = (path for pattern in self.sources for path in sorted(Path().glob(pattern)))
        return next(found, None) if self.sources else Path()


def toy(_: Path, output: Path) -> None:
    """Figure 2."""
    from examples.figure2 import plot

    plot(output)


def lengths(source: Path, output: Path) -> None:
    """Figure 3, of the counts of every bar."""
    from stoical.reporting.histograms import plot_histograms

    plot_histograms(json_object(source), output)


def recall_curves(_: Path, output: Path) -> None:
    """Figure 4, of the evaluations that are there."""
    from examples.figure4 import plot

    plot(output)


def table_1_curves(source: Path, output: Path) -> None:
    """Appendix C."""
    from examples.tables.__main__ import metrics_of
    from examples.tables.figure import plot_table

    found = json_object(source)
    plot_table(metrics_of(found["sections"]), len(found["seeds"]), output)


def thresholds(_: Path, output: Path) -> None:
    """Theorem 3.1 beside the exact dimension."""
    from stoical.studies.capacity.figures import plot_thresholds

    plot_thresholds(output)


def capacity_plot(part: str) -> Callable[[Path, Path], None]:
    """The figure of a part of section 3's study."""

    def plot(source: Path, output: Path) -> None:
        getattr(import_module("stoical.studies.capacity.figures"), f"plot_{part}")(cells(source, part), output)

    return plot


class NoCells(ValueError):
    """A study has not found a part yet."""


def cells(source: Path, part: str) -> list[dict[str, Any]]:
    """The cells of a part of the capacity study. Raises `NoCells` where there are none."""
    found = [row for row in json_object(source)["cells"].values() if row["part"] == part]
    if not found:
        raise NoCells(f"{source} has no cells of {part}; stoical capacity parts={part} finds them")
    return found


def paper_tables(source: Path) -> str:
    """Tables 1 and 3 in miniature, ranking losses, and verdicts on claims."""
    from examples.tables.__main__ import shown

    found = json_object(source)
    return shown(found["seeds"], found["sections"]).strip()


def table_of(module: str) -> Callable[[Path], str]:
    """The table that an example makes of its runs that are there."""
    return lambda _: str(import_module(module).table())


def recorded(module: str) -> Callable[[Path], str]:
    """The table that an example makes of table.json: every method against the first."""
    return lambda source: str(import_module(module).TABLE.markdown(json_object(source)["rows"]))


def evaluations(source: Path) -> str:
    """Every run whose name begins as this evaluation's does, with its metrics."""
    from stoical.reporting.tables import metrics_table

    run = source.parents[1]
    files = sorted(run.parent.glob(f"{run.name.partition('_')[0]}_*/eval/metrics.json"))
    return metrics_table([(path.parents[1].name, json_object(path)) for path in files])


def bash_checks(name: str) -> Callable[[Path], str]:
    """BASH by its share of own tokens, or with a model of one size."""

    def make(source: Path) -> str:
        from examples.bash_checks import table_of

        return table_of(name).markdown(json_object(source)["rows"])

    return make


def capacity(source: Path) -> str:
    """All parts that there are."""
    from stoical.studies.capacity.report import report

    return written(report([*json_object(source)["cells"].values()]))


def soft_prompts(source: Path) -> str:
    """Exact match by objective and decoder, and horizons."""
    from examples.soft_prompts.__main__ import shown

    return shown(json_object(source))


def report_of(source: Path) -> str:
    """What a command wrote."""
    return written(source.read_text(encoding="utf-8"))


def written(report: str) -> str:
    """A report below a heading of ours: without its own, the others a level down."""
    return report.partition("\n")[2].replace("\n#", "\n##").strip()


FIGURES: dict[str, Result[Callable[[Path, Path], None]]] = {
    "figure2_toy": Result("Figure 2, the toy prefix tree and its targets", (), "", toy),
    "length_histograms": Result(
        "Figure 3, lengths of lists, prompts and docIDs",
        ("runs/length_histograms/length_histograms.json", "docs/figures/length_histograms.json"),
        "stoical histograms",
        lengths,
    ),
    "figure4_mammals": Result("Figure 4, R@k over k", FIGURE_4, "python -m examples.figure4", recall_curves),
    "table_1": Result("Appendix C, Table 1 as curves", TABLES, "python -m examples.tables", table_1_curves),
    "capacity_thresholds": Result("section 3, dimensions for all orders", (), "", thresholds),
    **{
        f"capacity_{part}": Result(f"section 3, {title}", CAPACITY, "stoical capacity", capacity_plot(part))
        for part, title in CAPACITY_PARTS.items()
    },
}
TABLE_LIST: list[Result[Callable[[Path], str]]] = [
    Result(
        "Tables 1 and 3 in miniature, ranking losses, claims of section 5.2",
        TABLES,
        "python -m examples.tables",
        paper_tables,
    ),
    Result(
        "Table 2 on a small model",
        ("runs/esci_small/untrained-*/eval/metrics.json",),
        "python -m examples.esci_small",
        table_of("examples.esci_small"),
    ),
    Result("Figure 4 on the mammals", FIGURE_4, "python -m examples.figure4", table_of("examples.figure4")),
    Result(
        "Figure 4 on all nouns",
        ("runs/nouns_*/eval/metrics.json",),
        "stoical train recipe=dual_encoder_32,alpha2 data.path=data/wordnet_seen output=runs/nouns_dual_32 "
        "(docs/encoders.md)",
        evaluations,
    ),
    Result(
        "Reconstructing a taxonomy",
        ("runs/reconstruction/*/metrics.json",),
        "python -m examples.reconstruction",
        table_of("examples.reconstruction"),
    ),
    Result("Capacity (section 3)", CAPACITY, "stoical capacity", capacity),
    Result("The mismatch paper's Table 1, and ours", ("runs/mismatch/report.md",), "stoical mismatch", report_of),
    Result(
        "Soft prompts",
        ("runs/soft_prompts/results.json", f"{SHIPPED}/soft_prompts.json"),
        "python -m examples.soft_prompts",
        soft_prompts,
    ),
    Result(
        "Mitigations, ranking",
        ("runs/mitigations/table.json", f"{SHIPPED}/mitigations.json"),
        "python -m examples.mitigations",
        recorded("examples.mitigations"),
    ),
    Result(
        "Mitigations, plain text",
        ("runs/plain_text/table.json", f"{SHIPPED}/plain_text.json"),
        "python -m examples.plain_text",
        recorded("examples.plain_text"),
    ),
    *(
        Result(
            f"BASH, {name}",
            (f"runs/bash_checks/{name}/table.json", f"{SHIPPED}/bash_{name}.json"),
            f"python -m examples.bash_checks {words}",
            bash_checks(name),
        )
        for name, words in BASH.items()
    ),
]


def benchmarks() -> list[Result[Callable[[Path], str]]]:
    """What the programs of benchmarks/ wrote."""
    return [
        Result(f"Benchmark: {path.stem}", (str(path),), "", report_of) for path in sorted(Path(SHIPPED).glob("*.md"))
    ]


def draw(out: Path) -> None:
    """Draw every figure whose files are there."""
    check_writable(out)
    for name, figure in FIGURES.items():
        source = figure.source()
        if source is None:
            print(f"not there: {figure.title}; {figure.command} makes its files")
            continue
        try:
            figure.make(source, out / f"{name}.png")
        except NoCells as error:  # the other figures are drawn all the same
            print(f"not there: {figure.title}; {error}")
        else:
            print(f"{out / name}.png: {figure.title}{_of(source)}")


def show() -> None:
    """Print every table whose files are there, then what is missing."""
    missing = []
    for table in [*TABLE_LIST, *benchmarks()]:
        source = table.source()
        if source is None:
            missing.append(f"not there: {table.title}; {table.command} makes its files")
        else:
            print(f"## {table.title}{_of(source)}\n\n{table.make(source)}\n")
    print("\n".join(missing))


def _of(source: Path) -> str:
    return f" (of {source})" if source.name else ""


@dataclass
class Options:
    """What `figures` takes."""

    out: str = option("runs/figures", "the directory that figures go to; docs/figures has those of the pages")


def run(given: Given) -> None:
    """Figures or tables."""
    (what,) = given.words or [""]
    if what == "figures":
        draw(Path(given.options.out))
    elif what == "tables" and not given.names:
        show()
    elif what == "tables":
        raise ValueError("tables are printed: out= has no effect; remove it")
    else:
        raise unknown("word", what, KINDS, " Say figures or tables.")


if __name__ == "__main__":
    sys.exit(execute(Command(__doc__ or "", run, Options, words=1), sys.argv[1:]))
