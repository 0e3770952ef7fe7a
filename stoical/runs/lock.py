"""One run at a time in a run directory."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP)  # NFS without its lock daemon, say
LOCK = "_lock"  # the hub's uploads leave out what begins with an underscore


@contextmanager
def only_run(output: Path) -> Iterator[None]:
    """Hold a run directory, made where it is missing, until the block or the process ends; every process calls this.

    The operating system frees it when a run is killed. Raises `ValueError`, on every process, where another run holds
    it: two would write into each other's checkpoints.
    """
    lock, free = FileLock(output / LOCK, blocking=False), True
    if PartialState().is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            free = False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            logger.warning(
                f"{output} is on a file system without locks ({error.strerror}): nothing keeps a second run out of it"
            )
    if not broadcast_object_list([free])[0]:
        raise ValueError(f"another run is writing to {output} at this moment; wait for it, or set another output=")
    try:
        yield
    finally:
        lock.release()
