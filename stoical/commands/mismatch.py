"""Repeat the mismatch paper's simulation, and answer its question exactly: two tables with figures.

  stoical mismatch [output=DIR] [quick=true] [blocks=1,2] [methods=NAME,NAME] [key=value ...]

Block 1 follows the paper's conventions, block 2 measures every method that stoical has by exact definitions; both on
many small simulated models at once. Writes report.md, results.json and figures; an interrupted study goes on when the
same command is given again. docs/mismatch.md explains what comes out.
"""

from __future__ import annotations

from pathlib import Path

from stoical.commands.shell import AGAIN, Command, Given
from stoical.studies.mismatch.settings import MismatchSettings, quickened


def run(given: Given) -> None:
    """Check, run what is missing, and report."""
    settings = quickened(given.options, given.names)
    from stoical.studies.mismatch.methods import NAMES

    settings.check(NAMES)
    from stoical.runs.lock import only_run
    from stoical.studies.mismatch.report import write_report
    from stoical.studies.mismatch.run import carry_out, prepare

    parts = prepare(settings)
    with only_run(Path(settings.output)):
        carry_out(settings, parts)
        print(write_report(settings, parts))


main = Command(str(__doc__), run, MismatchSettings, goes_on=AGAIN)
