"""How fast training is, and how much memory it took: measured between two logs, over all processes."""

from __future__ import annotations

import time
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback

from stoical.encoding.packed_batch import PackedBatch
from stoical.training.memory import GIB


class Throughput(TrainerCallback):
    """Counts real input tokens (of prompts and trie nodes, no padding) and queries, and the time training took.

    Evaluation and saving come right after a step and end with an event of their own: that time is left out. Nothing is
    read from the device but at a log, where the trainer waits for it anyway.
    """

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._tokens = self._places = self._queries = 0
        self._away = 0.0  # seconds in evaluation and saving
        self._started = self._last_event = time.perf_counter()

    def count(self, batch: PackedBatch) -> None:
        """Add a micro-batch of this process."""
        self._tokens += batch.num_tokens
        self._places += batch.input_ids.numel()
        self._queries += len(batch.query_ids)

    def since_last_log(self, accelerator: Accelerator) -> dict[str, float]:
        """tokens_per_second, queries_per_second, real_tokens and, on CUDA, peak_memory_gib.

        real_tokens: the share of places that hold a token, in the rectangles that attention runs on. peak_memory_gib:
        the most that a process ever held. A collective: every process calls it, and starts counting again.
        """
        seconds = time.perf_counter() - self._started - self._away
        cuda = accelerator.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated() if cuda else 0
        mine = torch.tensor([[self._tokens, self._places, self._queries, peak / GIB]], device=accelerator.device)
        everyone = accelerator.gather(mine).cpu()  # [processes, 4]
        self._restart()
        tokens, places, queries, _ = everyone.sum(dim=0).tolist()
        rates = {"tokens_per_second": tokens / max(seconds, 1e-9), "queries_per_second": queries / max(seconds, 1e-9)}
        return (
            rates
            | {"real_tokens": tokens / max(places, 1)}
            | ({"peak_memory_gib": float(everyone[:, 3].max())} if cuda else {})
        )

    def on_train_begin(self, *arguments: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._restart()

    def on_step_end(self, *arguments: Any, **kwargs: Any) -> None:
        """Remember when training last did something."""
        self._last_event = time.perf_counter()

    def on_evaluate(self, *arguments: Any, **kwargs: Any) -> None:
        """Leave out what has passed since the step, or since what came after it."""
        now = time.perf_counter()
        self._away += now - max(self._last_event, self._started)
        self._last_event = now

    def on_save(self, *arguments: Any, **kwargs: Any) -> None:
        """Leave out the time of saving, as `on_evaluate` leaves out that of evaluation."""
        self.on_evaluate()
