"""`make quickstart`: rank the mammals of WordNet, with and without a rank-aware loss, in minutes on two cores.

Prepares the mammal.n.01 subtree, evaluates a small untrained Mistral-architecture model, trains it twice from scratch
(next-token prediction, and lambda = 1/r^2), evaluates both, and prints one table. An interrupted run goes on where it
stopped when the command is given again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from stoical.reporting.curves import plot_curves
from stoical.reporting.tables import metrics_table

ROOT = Path("runs/quickstart")
RUNS = {  # label -> recipe, folder
    "untrained": ("wordnet_ntp", "untrained"),
    "NTP": ("wordnet_ntp", "ntp"),
    "lambda = 1/r^2": ("wordnet_alpha2", "alpha2"),
}
LESSON = """\
What to see: next-token prediction (NTP) names the most specific hypernym best (R@1), but ranks a wrong synset above a
right one for most queries (CVR) and loses the order further down. Weighting every hypernym by 1/r^2 gives up some R@1
for the rest of the list: hardly any violation, and better nDCG and R@2 to R@5. nDCG's gains are logarithms of the rank,
so that a random order of the lists has 89, as the last row but one says; compare with that."""


def main() -> None:
    """Run the steps, each timed, and report."""
    started = time.perf_counter()
    step("prepare the data", "-m", "data_prep.wordnet", "out=data/mammal", "subtree=mammal.n.01", "test_size=200")
    for label, (recipe, folder) in RUNS.items():
        names, output = f"recipe={recipe},small,quickstart", ROOT / folder
        if label == "untrained":
            step("evaluate the untrained model", "evaluate.py", names, f"output={output}")
        else:
            step(f"train with {label}", "train.py", names, f"output={output}", "resume=auto")
            step(f"evaluate {label}", "evaluate.py", f"checkpoint={output}")
    rows = [
        (label, json.loads((ROOT / folder / "eval/metrics.json").read_text())) for label, (_, folder) in RUNS.items()
    ]
    figure = ROOT / "curves.png"
    plot_curves({label: ROOT / folder for label, (_, folder) in RUNS.items() if label != "untrained"}, figure)
    print(f"\nTest split of mammal.n.01, %:\n\n{metrics_table(rows)}\n\n{LESSON}\n")
    print(f"training curves: {figure}; all results: {ROOT}; {time.perf_counter() - started:.0f} s in all")


def step(what: str, *command: str) -> None:
    """Run one command of the project, saying what it is before and how long it took after."""
    print(f"==> {what}: python {' '.join(command)}", flush=True)
    started = time.perf_counter()
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ  # threads that spin while they wait starve a busy machine
    status = subprocess.run([sys.executable, *command], check=False, env=environment).returncode
    if status:
        sys.exit(status)
    print(f"    {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
