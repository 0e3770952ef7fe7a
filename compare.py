"""Compare evaluated runs: one markdown table, with paired differences from the first run.

  python compare.py runs/wordnet_ntp runs/wordnet_alpha2 [...]

Takes run directories (their eval/ is read) or directories that evaluate.py wrote. Queries are matched by query_id.
Where all were evaluated with generation=true, a second table has what they write.
"""

from collections.abc import Sequence

from stoical.cli import run
from stoical.reporting.compare import compare, compare_generations, load_run


def main(arguments: Sequence[str]) -> None:
    runs = [load_run(directory) for directory in arguments]
    print(compare(runs))
    written = compare_generations(runs)
    if written:
        print(f"\n{written}")


if __name__ == "__main__":
    run(main, __doc__ or "", recipes=False)
