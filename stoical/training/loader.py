"""Training batches made ahead: a thread encodes and packs the next ones while the model works on these.

A loader with `Ahead` as its dataset and its collator draws indices alone, and its batches are promises, some of which
are always in the making. Sampler, shuffles, the batches that a resumed run skips and what each batch holds are those of
a loader without a thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from accelerate.utils import send_to_device
from torch.utils.data import DataLoader

from stoical.encoding.queries import EncodedDataset


@dataclass(frozen=True)
class Promise:
    """A batch in the making: `to`, which accelerate calls, waits for it."""

    batch: Future[Any]

    def pin_memory(self, device: Any = None) -> Promise:
        """Itself: the thread has seen to that."""
        return self

    def to(self, device: Any, non_blocking: bool = False) -> Any:
        """The batch on `device`. Raises what making it raised."""
        return send_to_device(self.batch.result(), device, non_blocking=non_blocking)


@dataclass(frozen=True)
class Ahead:
    """A dataset of its own indices, and the collator that makes promises of them; with `pin`, in page-locked memory."""

    dataset: EncodedDataset
    collate: Callable[[Sequence[Any]], dict[str, Any]]
    pin: bool = False
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="loader"))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> int:
        return index

    def set_epoch(self, epoch: int) -> None:
        """For the queries' shuffles. Nothing is in the making between epochs."""
        self.dataset.set_epoch(epoch)

    def __call__(self, indices: Sequence[int]) -> Promise:
        """A promise of the batch of these queries."""
        return Promise(self._thread.submit(self._make, indices))

    def _make(self, indices: Sequence[int]) -> dict[str, Any]:
        made = self.collate([self.dataset[index] for index in indices])
        return {name: value.pin_memory() for name, value in made.items()} if self.pin else made


class AheadLoader(DataLoader[Any]):
    """A data loader that has `depth` batches more asked of its dataset than were asked of it."""

    depth: int

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        promises = super().__iter__()
        waiting = deque(islice(promises, self.depth))
        for promise in promises:
            waiting.append(promise)
            yield waiting.popleft()
        yield from waiting


def look_ahead(loader: Any, depth: int) -> None:
    """Have a loader that accelerate has prepared look `depth` batches ahead, beside the one that accelerate does.

    accelerate makes the loader inside its own itself, and only from plain ones.
    """
    loader.base_dataloader.__class__ = AheadLoader
    loader.base_dataloader.depth = depth
