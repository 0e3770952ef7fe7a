"""The benchmarks that need minutes and no GPU, at sizes meant for less than 15 minutes together on two cores.

    python -m benchmarks                     what `make bench` runs
    python -m benchmarks only=forward,head   some of them

Each runs in a process of its own, on one thread, and writes <out>/<name>.json and .md; `python -m benchmarks.<name>`
has the sizes of the page in benchmarks/README.md. At the end: what each took.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from benchmarks.measure import markdown_table
from stoical.commands.shell import Command, execute
from stoical.common.options import option

COMMAND = "python -m benchmarks"
SIZES = {  # name -> words
    "forward": ("sizes=256x10,512x40,1024x60", "budget=5"),
    "flat": ("budget=5", "batches=2"),
    "head": ("sizes=64x150000", "budget=1"),
    "collator": ("recipes=ntp,alpha2_beta2", "queries=400", "rounds=3"),
    "scoring": ("docs=10,40", "each=8"),
    "serving": ("queries=96", "batches=32", "searched=8", "lines=1000,3000", "budget=5"),
    "omp": ("sizes=20000x256", "budget=5"),
}


@dataclass
class AllOptions:
    """What the user can set; `--help` prints it."""

    only: str = option(",".join(SIZES), "which benchmarks")
    out: str = option("runs/bench", "results go to <out>/<name>.json and .md")


def run_one(name: str, out: Path) -> dict[str, str]:
    """One benchmark, and the seconds that it took. Raises `ValueError` where it fails."""
    wall, cpu = time.perf_counter(), getrusage(RUSAGE_CHILDREN)
    command = [sys.executable, "-m", f"benchmarks.{name}", *SIZES[name], f"out={out / name}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        raise ValueError(f"python -m benchmarks.{name} {' '.join(SIZES[name])} ended with status {done.returncode}")
    spent = getrusage(RUSAGE_CHILDREN)
    used = spent.ru_utime + spent.ru_stime - cpu.ru_utime - cpu.ru_stime
    return {"benchmark": name, "processor, s": f"{used:.0f}", "wall, s": f"{time.perf_counter() - wall:.0f}"}


def run(options: AllOptions) -> None:
    """Run them one after another, and print what each took."""
    names = options.only.split(",")
    for name in names:
        if name not in SIZES:
            raise ValueError(f"only: {name!r} is none of {', '.join(SIZES)}")
    began, out = time.perf_counter(), Path(options.out).resolve()
    rows = [run_one(name, out) for name in names]
    print(markdown_table(rows))
    print(f"\n{(time.perf_counter() - began) / 60:.1f} minutes; results are in {options.out}")


def main() -> int:
    """Entry point of `python -m benchmarks`."""
    command = Command(__doc__ or "", lambda given: run(given.options), AllOptions, bare=True)
    return execute(command, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
