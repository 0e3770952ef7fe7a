"""The run directory: what is written before the first step, so that a run can be recognised and done again."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from stoical.common.files import json_object, write_whole
from stoical.config.recipe import Recipe
from stoical.config.values import recipe_yaml
from stoical.data.files import json_line, load_manifest
from stoical.runs.checkpoints import UNFINISHED
from stoical.runs.provenance import device_name, git_state, package_versions
from stoical.runs.resume import changed, steps_done


def start_run(
    recipe: Recipe, fingerprint: Mapping[str, Any], checkpoint: Path | None, micro_batch: int, accumulated: int
) -> None:
    """Write recipe.yaml (resolved), manifest.json and the docID table, and clear away what a killed run left.

    Every process calls this. A run that continues from its own checkpoint keeps these files as they were; what differs
    now is appended to the manifest's `resumed`. Rows of metrics.jsonl past the checkpoint are dropped: the steps are
    about to be done again.
    """
    state, output = PartialState(), Path(str(recipe.output))
    facts = run_facts(recipe, fingerprint, micro_batch, accumulated)
    if state.is_local_main_process:
        shutil.rmtree(output / UNFINISHED, ignore_errors=True)
    if state.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        manifest, own = output / "manifest.json", checkpoint is not None and checkpoint.parent.samefile(output)
        if not (own and manifest.is_file()):
            write_whole(output / "recipe.yaml", recipe_yaml(recipe))
            write_whole(manifest, json.dumps(facts | {"resumed": []}, indent=2) + "\n")
            _keep_items(recipe, output)
        if checkpoint is not None:
            _append_resumed(manifest, facts, checkpoint, changed(checkpoint, recipe))
        _drop_rows(output / "metrics.jsonl", -1 if checkpoint is None else steps_done(checkpoint))
    state.wait_for_everyone()


def _keep_items(recipe: Recipe, output: Path) -> None:
    """Copy the dataset's docID table, if it has one, beside the model: without it nobody knows what `[25,36,39]` is."""
    table = Path(recipe.data.path) / "items.parquet"
    if table.is_file():
        shutil.copyfile(table, output / table.name)


def run_facts(recipe: Recipe, fingerprint: Mapping[str, Any], micro_batch: int, accumulated: int) -> dict[str, Any]:
    """What it takes to do the run again: code, data, seeds, batches, devices. Every process calls this."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "recipe_sha256": hashlib.sha256(recipe_yaml(recipe).encode()).hexdigest(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "git": git_state(),
        "data": load_manifest(recipe.data.path),
        **fingerprint,
        "seeds": {"seed": recipe.seed, "data_seed": recipe.training.get("data_seed")},
        "global_batch": {
            "queries" if recipe.encoder is None else "pairs": recipe.global_batch_size,
            "processes": PartialState().num_processes,
            "micro_batch": micro_batch,
            "accumulation_steps": accumulated,
        },
        "devices": gather_object([device_name()]),
    }


def _append_resumed(manifest: Path, facts: Mapping[str, Any], checkpoint: Path, changes: Mapping[str, Any]) -> None:
    """Add what differs from the first start, and what `resume_force` let pass, to the manifest."""
    first = json_object(manifest)
    if not isinstance(first.get("resumed"), list):
        raise ValueError(f"{manifest} has no list 'resumed', so it is damaged; delete it to have one written anew")
    entry = {"checkpoint": str(checkpoint), "step": steps_done(checkpoint), "changed": changes}
    entry |= {key: value for key, value in facts.items() if value != first.get(key)}
    first["resumed"].append(entry)
    write_whole(manifest, json.dumps(first, indent=2) + "\n")


def _drop_rows(metrics: Path, last_step: int) -> None:
    """Keep the rows up to a step; a last line without an end, which a kill can leave, goes too."""
    if metrics.is_file():
        lines = [line for line in metrics.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        steps = [_step_of(line, f"{metrics}:{number}") for number, line in enumerate(lines, 1)]
        write_whole(metrics, b"".join(line for line, step in zip(lines, steps, strict=True) if step <= last_step))


def _step_of(line: bytes, where: str) -> float:
    """The step of a row. Raises `ValueError`, which `where` opens, for a line that is not one."""
    step = json_line(line, where).get("step")
    if isinstance(step, bool) or not isinstance(step, int | float):
        raise ValueError(f"{where} has no number of a step, so no run wrote it; delete the line")
    return step
