"""Taking times, and writing them down with what they were taken on.

Every call is timed by two clocks. `cpu`, the processor time of the process, does not see what other jobs take of the
machine; on one thread and an idle machine it equals `wall`. With several threads only `wall` means anything.
"""

from __future__ import annotations

import gc
import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

Clock = Literal["wall", "cpu"]
RESULTS = Path(__file__).parent / "results"


Times = dict[Clock, list[float]]
"""Seconds of every call, by both clocks."""


def timed(work: Callable[[], Any]) -> dict[Clock, float]:
    """Seconds that one call takes, with Python's garbage collector out of the way."""
    gc.collect()
    gc.disable()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    seconds: dict[Clock, float] = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    gc.enable()
    return seconds


def interleaved(
    variants: Mapping[str, Callable[[], Any]], budget: float, rounds: tuple[int, int], few: Mapping[str, int]
) -> dict[str, Times]:
    """Time every variant in turns, so that noise of the machine hits all alike.

    A first round warms up and is thrown away. Rounds go on until `budget` seconds are spent, but no fewer and no more
    than `rounds` of them. `few` names variants that sit out after so many rounds.
    """
    for work in variants.values():
        work()
    times: dict[str, Times] = {name: {"wall": [], "cpu": []} for name in variants}
    start, done = time.perf_counter(), 0
    while done < rounds[0] or (done < rounds[1] and time.perf_counter() - start < budget):
        for name, work in variants.items():
            if done < few.get(name, rounds[1]):
                for clock, value in timed(work).items():
                    times[name][clock].append(value)
        done += 1
    return times


def waiting(times: Iterable[Times]) -> float:
    """Share of the wall time in which the process had no processor: what other jobs took, on one thread."""
    pairs = [(sum(entry["wall"]), sum(entry["cpu"])) for entry in times]
    return 1 - sum(cpu for _, cpu in pairs) / sum(wall for wall, _ in pairs)


def spread(times: Sequence[float]) -> float:
    """Median absolute deviation from the median, as a fraction of it: how noisy a measurement was."""
    middle = median(times)
    return median(abs(value - middle) for value in times) / middle


def compared(
    times: Mapping[str, Times], title: str, over: str, under: str, differences: Mapping[str, float], digits: int = 1
) -> dict[str, str]:
    """Cells of a table: the median of the rounds' ratios of processor time, `over` to `under`, and what goes with it.

    differences: nats and gradients, by which the two ways differ; `digits` of them are shown.
    """
    ratios = [one / other for one, other in zip(times[over]["cpu"], times[under]["cpu"], strict=True)]
    return {
        title: f"{median(ratios):.2f}",
        "rounds": str(len(ratios)),
        "noise": f"{spread(ratios):.0%}",
        "waiting": f"{waiting(times.values()):.0%}",
        **{name: f"{differences[name]:.{digits}e}" for name in ("nats", "gradients")},
    }


def environment() -> dict[str, Any]:
    """Processor, core and thread counts, the GPU if any, and versions; nothing that names the machine or its owner."""
    gpu = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if torch.cuda.is_available() else {}
    return {
        **gpu,
        "processor": _processor(),
        "cores": torch.multiprocessing.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("stoical", "torch", "transformers", "tokenizers", "numpy")},
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a markdown table; all have the keys of the first."""
    header = list(rows[0])
    lines = [header, ["---:"] * len(header), *([str(row[key]) for key in header] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write_results(
    out: str,
    command: str,
    arguments: Sequence[str],
    settings: Mapping[str, Any],
    results: Any,
    tables: Mapping[str, str],
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Print the tables, and write `results/<out>.json` and `results/<out>.md`; paths are left out of both.

    `facts`: what they were measured on, `environment()` unless given.
    """
    facts = environment() if facts is None else facts
    shown = " ".join([command, *(word for word in arguments if "/" not in word)])
    text = [
        f"# {Path(out).name}",
        "",
        f"`{shown}`",
        "",
        ", ".join(f"{key} {value}" for key, value in facts.items()),
        "",
    ]
    for title, table in tables.items():
        text += [f"## {title}", "", table, ""]
    print("\n".join(text))
    (RESULTS / out).parent.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in settings.items() if "/" not in str(value)}
    record = {"command": shown, "environment": facts, "settings": kept, "results": results}
    (RESULTS / f"{out}.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / f"{out}.md").write_text("\n".join(text))
