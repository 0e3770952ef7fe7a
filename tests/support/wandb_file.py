"""What an offline W&B run holds: its .wandb file, read with wandb's own messages.

The file is a LevelDB log: 7 bytes of header, then blocks of 32 KiB holding records of checksum (4 bytes), length (2),
kind (1: whole, 2 to 4: first, middle and last piece) and data.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE_HEADER, RECORD_HEADER, BLOCK = 7, 7, 32768


def messages(path: Path) -> Iterator[Any]:
    """Every message of the file, in order."""
    from wandb.proto import wandb_internal_pb2

    data, place, pieces = path.read_bytes(), FILE_HEADER, b""
    while place + RECORD_HEADER <= len(data):
        if BLOCK - place % BLOCK < RECORD_HEADER:  # no header fits into what is left of the block
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        pieces += data[place + RECORD_HEADER : place + RECORD_HEADER + length]
        place += RECORD_HEADER + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(pieces)
            pieces = b""


def history(path: Path) -> list[dict[str, Any]]:
    """The logged rows: key to value."""
    rows = (message.history.item for message in messages(path) if message.HasField("history"))
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]


def config(path: Path) -> dict[str, Any]:
    """The run's configuration, of all its updates."""
    updates = [message for message in messages(path) if message.HasField("run") or message.HasField("config")]
    items = [i for m in updates for i in (m.run.config if m.HasField("run") else m.config).update]
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def run_names(path: Path) -> list[tuple[str, str]]:
    """(project, name) of every run in the file."""
    return [(m.run.project, m.run.display_name) for m in messages(path) if m.HasField("run")]
