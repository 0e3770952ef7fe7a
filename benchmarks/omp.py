"""Orthogonal matching pursuit: the batched one against scikit-learn's loop over rows.

    python -m benchmarks.omp
    python -m benchmarks.omp sizes=20000x256,20000x768 atoms=100 nonzeros=3

Both get the same float64 rows and dictionary, on as many threads. The rows are sums of a few atoms and noise, so that
supports are neither obvious nor chance. Time and memory for all of ESCI's 1.8 million titles are extrapolated: time by
the number of rows, memory as what a block takes, measured, with the result's size added.

Dimension letters: N rows, E embedding dimensions, C atoms, K non-zeros.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from sklearn.decomposition import sparse_encode
from threadpoolctl import threadpool_limits

from benchmarks.measure import interleaved, markdown_table, spread, waiting, write_results
from stoical.commands.shell import Command, execute
from stoical.common.options import option
from stoical.docids.matching_pursuit import BLOCK_ROWS, Floats, batched_omp

COMMAND = "python -m benchmarks.omp"
ESCI_TITLES = 1_802_771


@dataclass
class OmpOptions:
    """What the user can set; `--help` prints it."""

    sizes: str = option("20000x256,20000x768", "rows x embedding dimensions, ...")
    atoms: int = option(100, "atoms of the dictionary")
    nonzeros: int = option(3, "non-zeros of a code")
    block_rows: int = option(BLOCK_ROWS, "rows of a block")
    threads: int = option(1, "threads of torch and BLAS; with more, set clock=wall")
    clock: Literal["cpu", "wall"] = option("cpu", "the clock that the table shows; the JSON has both")
    budget: float = option(30.0, "seconds to spend on a size; at least 3 rounds are made")
    seed: int = option(0, "seed of rows and dictionary")
    out: str = option("omp", "results go to benchmarks/results/<out>.json and .md")


def make_problem(rows: int, dimensions: int, atoms: int, seed: int) -> tuple[Floats, Floats]:
    """Rows [N, E], each five atoms and noise, of norm 1; unit atoms [C, E]. Both float64."""
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(atoms, dimensions))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    signs = rng.normal(size=(rows, 5))
    mixed = np.einsum("nk,nke->ne", signs, dictionary[rng.integers(atoms, size=(rows, 5))])
    mixed += rng.normal(size=mixed.shape) / np.sqrt(dimensions)
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True), dictionary


def peak_bytes(work: Callable[[], Any]) -> int | None:
    """By how much the call raises the process's resident memory at its highest, where Linux tells it."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not (status.exists() and reset.exists()):
        return None

    def read(key: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key)) * 1024

    reset.write_text("5")  # sets the high-water mark back to what is resident now
    before = read("VmRSS")
    work()
    return read("VmHWM") - before


def differing_rows(rows: Floats, dictionary: Floats, options: OmpOptions) -> int:
    """How many rows have another support than scikit-learn's."""
    wanted = sparse_encode(rows, dictionary, algorithm="omp", n_nonzero_coefs=options.nonzeros) != 0
    atoms, _ = batched_omp(rows, dictionary, options.nonzeros, options.block_rows)
    found = np.zeros_like(wanted)
    row, k = np.nonzero(atoms >= 0)
    found[row, atoms[row, k]] = True
    return int((found != wanted).any(axis=1).sum())


def time_size(text: str, options: OmpOptions) -> dict[str, Any]:
    """All measurements of one size."""
    count, _, dimensions = text.partition("x")
    if not (count.isdecimal() and dimensions.isdecimal() and int(count) and int(dimensions)):
        raise ValueError(f"sizes: {text!r} is not of the form 20000x256 (rows x dimensions)")
    rows, dictionary = make_problem(int(count), int(dimensions), options.atoms, options.seed)

    def batched() -> None:
        batched_omp(rows, dictionary, options.nonzeros, options.block_rows)

    def reference() -> None:
        sparse_encode(rows, dictionary, algorithm="omp", n_nonzero_coefs=options.nonzeros)

    batched()  # what is loaded once is not the block's
    peak = peak_bytes(batched)
    times = interleaved({"batched": batched, "scikit-learn": reference}, options.budget, rounds=(3, 20), few={})
    return {
        "size": text,
        "rows": int(count),
        "differing_rows": differing_rows(rows, dictionary, options),
        "peak_bytes": peak,
        "times": times,
    }


def summarise(results: list[dict[str, Any]], options: OmpOptions) -> str:
    """A table: seconds, their ratio, and what 1.8 million rows would take."""
    table = []
    for result in results:
        times = {name: entry[options.clock] for name, entry in result["times"].items()}
        fast, slow = median(times["batched"]), median(times["scikit-learn"])
        scale, codes = ESCI_TITLES / result["rows"], 16 * options.nonzeros
        peak = result["peak_bytes"]
        block = "" if peak is None else f"{(peak + codes * (ESCI_TITLES - result['rows'])) / 1e6:.0f}"
        table.append(
            {
                "N x E": result["size"],
                "rows that differ": result["differing_rows"],
                "scikit-learn, s": f"{slow:.2f}",
                "batched, s": f"{fast:.3f}",
                "ratio": f"{slow / fast:.1f}",
                "rounds": len(times["batched"]),
                "noise": f"{max(map(spread, times.values())):.0%}",
                "waiting": f"{waiting(result['times'].values()):.0%}",
                "peak beside the rows, MB": "" if peak is None else f"{peak / 1e6:.0f}",
                "1.8M: scikit-learn, s": f"{slow * scale:.0f}",
                "1.8M: batched, s": f"{fast * scale:.0f}",
                "1.8M: batched peak, MB": block,
            }
        )
    return markdown_table(table)


def run(options: OmpOptions) -> None:
    """Time every size and write the results."""
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="sklearn")
    with threadpool_limits(options.threads):
        results = [time_size(text, options) for text in options.sizes.split(",")]
    title = f"{options.nonzeros} of {options.atoms} atoms, {options.clock} seconds"
    write_results(options.out, COMMAND, sys.argv[1:], asdict(options), results, {title: summarise(results, options)})


def main() -> int:
    """Entry point of `python -m benchmarks.omp`."""
    command = Command(__doc__ or "", lambda given: run(given.options), OmpOptions, bare=True)
    return execute(command, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
