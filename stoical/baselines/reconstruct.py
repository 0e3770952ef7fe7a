"""One run of the reconstruction protocol: train vectors of a WordNet subtree, measure, and keep both."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stoical.baselines.options import ReconstructOptions
from stoical.baselines.taxonomy import Closure, Embedding, reconstruction
from stoical.common.files import check_writable, write_whole, writing
from stoical.common.places import data_prep
from stoical.runs.lock import LOCK, only_run

TABLE, METRICS = "embedding.safetensors", "metrics.json"
DRAFT = f"{TABLE}.new"  # which a kill may leave
WAY_OUT = "delete it to start again, or give another output="
FREE = ("output", "epochs", "measure_every", "resume")  # options that no vector depends on


def reconstruct(options: ReconstructOptions) -> dict[str, Any]:
    """Train, measuring and saving now and then; what metrics.json holds.

    Raises `ValueError` as `_start` does, and where another run is writing there.
    """
    options.check()
    out = Path(options.output)
    check_writable(out)
    _check_own(out)
    closure = _closure(options.subtree)
    with only_run(out):
        embedding, history, done = _start(options, closure)
        print(f"{len(closure.names):,} nodes, {len(closure.child):,} pairs of node and ancestor")
        clock = time.process_time()
        for number in range(done, options.epochs):
            rate = options.rate / 10 if number < options.burn_in else options.rate
            loss = embedding.epoch(number, rate, options.batch_size, options.negatives)
            if (number + 1) % options.measure_every == 0 or number + 1 == options.epochs:
                spent, clock = time.process_time() - clock, time.process_time()
                history.append({"epoch": number + 1, "loss": loss, **reconstruction(embedding), "seconds": spent})
                _save(options, embedding, history)
                print(_line(history[-1], options.epochs), flush=True)
    return _record(options, closure, history)


def _check_own(out: Path) -> None:
    """Raise `ValueError` for a directory that holds something, and no vectors: metrics.json there may be another's."""
    held = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if TABLE not in held and held - {LOCK, DRAFT}:
        raise ValueError(f"output={out} holds something else than vectors of a taxonomy; give another output=")


def _closure(subtree: str) -> Closure:
    graph = data_prep("wordnet.graph")
    parents = graph.bundled_graph().parents
    graph.check_subtree(subtree, parents)
    closure = Closure.of(parents, subtree)
    if not len(closure.child):
        raise ValueError(f"subtree={subtree} has nothing below it; give a more general one")
    return closure


def _start(options: ReconstructOptions, closure: Closure) -> tuple[Embedding, list[dict[str, float]], int]:
    """Vectors, measurements and epochs so far.

    Raises `ValueError` where there are vectors that may not be replaced, or that were trained with other settings.
    """
    file = Path(options.output) / TABLE
    if not file.exists():
        return Embedding.start(closure, options.space, options.dim, options.seed), [], 0
    if not options.resume:
        raise ValueError(f"{options.output} already holds vectors; give resume=true to continue, or another output=")
    table, kept = _read(file)
    other = [key for key, value in _settings(options).items() if kept["settings"].get(key) != value]
    if other:
        was = ", ".join(f"{key}={kept['settings'].get(key)}" for key in other)
        raise ValueError(f"{file} was trained with {was}; give that, or another output=")
    return Embedding(closure, options.space, table, options.seed), kept["history"], kept["history"][-1]["epoch"]


def _read(file: Path) -> tuple[Tensor, dict[str, Any]]:
    """The vectors, and their settings and history. Raises `ValueError` where the file is not as it was written."""
    try:
        with safe_open(file, framework="pt") as content:
            table, said = content.get_tensor("table"), content.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged, or not of stoical reconstruct: {error}; {WAY_OUT}") from error
    if said.get("sum") != _sum(table, said.get("run", "")):
        raise ValueError(f"{file} is damaged, or of an earlier version of stoical: its sum is another; {WAY_OUT}")
    return table, json.loads(said["run"])


def _sum(table: Tensor, run: str) -> str:
    """XXH3 of the vectors' bits and of what is said about them: safetensors takes a flipped bit for a number."""
    digest = xxhash.xxh3_64(run.encode())
    digest.update(table.contiguous().numpy().tobytes())
    return str(digest.hexdigest())


def _settings(options: ReconstructOptions) -> dict[str, Any]:
    """The options that the vectors depend on, but for the number of epochs."""
    return {key: value for key, value in asdict(options).items() if key not in FREE}


def _record(options: ReconstructOptions, closure: Closure, history: list[dict[str, float]]) -> dict[str, Any]:
    last = {key: history[-1][key] for key in ("mean_rank", "map", "loss", "epoch")}
    spent = sum(row["seconds"] for row in history)
    counts = {"nodes": len(closure.names), "pairs": len(closure.child), "processor_seconds": spent}
    return {**last, **counts, "settings": _settings(options), "history": history}


def _save(options: ReconstructOptions, embedding: Embedding, history: list[dict[str, float]]) -> None:
    """Vectors with all that continues them in one file, then metrics.json: each is there whole or as it was."""
    out = Path(options.output)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        draft = out / DRAFT
        run = json.dumps({"settings": _settings(options), "history": history})
        save_file({"table": embedding.table}, draft, {"run": run, "sum": _sum(embedding.table, run)})
        draft.replace(out / TABLE)
    write_whole(out / "nodes.json", json.dumps(embedding.closure.names))
    write_whole(out / METRICS, json.dumps(_record(options, embedding.closure, history), indent=2) + "\n")


def _line(row: dict[str, float], epochs: int) -> str:
    return (
        f"epoch {row['epoch']}/{epochs}  loss {row['loss']:.4f} nats  MR {row['mean_rank']:.2f}  MAP {row['map']:.3f}  "
        f"{row['seconds']:.0f} s"
    )
