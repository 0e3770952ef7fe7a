"""Epochs that do not fill their last batch, the same on any number of processes.

accelerate completes them with the epoch's first queries, so that several processes would train on these twice. Here the
queries are dealt out as they are; a process that gets none runs a filler, so that all stay in step: a batch whose loss
counts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import BatchSampler, DataLoader

from stoical.encoding.queries import FILLER


@dataclass(frozen=True)
class Share:
    """One process's batches of indices: every `processes`-th of `batches`, and a filler where it has no last one."""

    batches: BatchSampler
    processes: int
    process: int

    @property
    def sampler(self) -> Any:
        """What shuffles, for whoever tells it the epoch."""
        return self.batches.sampler

    def __iter__(self) -> Iterator[list[int]]:
        count = 0
        for count, batch in enumerate(self.batches, 1):
            if (count - 1) % self.processes == self.process:
                yield batch
        missing = -count % self.processes
        if self.process >= self.processes - missing:
            yield [FILLER]

    def __len__(self) -> int:
        return -(-len(self.batches) // self.processes)


def deal_exactly(loader: DataLoader[Any], processes: int, process: int) -> None:
    """Have a loader that accelerate has prepared for several processes deal out its batches by `Share`.

    accelerate's own wrapper stays, for one process, as transformers does it for its rebalancing sampler.
    """
    wrapper: Any = loader.batch_sampler
    wrapper.batch_sampler = Share(wrapper.batch_sampler, processes, process)
    wrapper.num_processes, wrapper.process_index = 1, 0
    wrapper.batch_size, wrapper.even_batches = None, False
