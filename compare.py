"""Compare evaluated runs: one markdown table, with paired differences from the first run.

  python compare.py runs/wordnet_ntp runs/wordnet_alpha2 [...]

Takes run directories (their eval/ is read) or directories that evaluate.py wrote. Queries are matched by query_id.
"""

from collections.abc import Sequence

from stoical.cli import run
from stoical.reporting.compare import compare, load_run


def main(arguments: Sequence[str]) -> None:
    print(compare([load_run(directory) for directory in arguments]))


if __name__ == "__main__":
    run(main, __doc__ or "", recipes=False)
