"""Compare evaluated runs: one markdown table, with paired differences from the first run.

  stoical compare runs/wordnet_ntp runs/wordnet_alpha2 [...]

Takes run directories (their eval/ is read) or directories that `stoical evaluate` wrote, all on the same data. Queries
are matched by query_id. Where all were evaluated with eval.generation=true, a second table has what they write.
"""

from __future__ import annotations

from stoical.commands.shell import Command, Given


def run(given: Given) -> None:
    """Print the tables."""
    from stoical.reporting.compare import compare_generations, compare_runs, load_run

    runs = [load_run(directory) for directory in given.words]
    print(compare_runs(runs))
    written = compare_generations(runs)
    if written:
        print(f"\n{written}")


main = Command(str(__doc__), run, words=1_000)
