"""Write the table of other libraries' fields that recipes may set: `python -m tools.library_fields`.

Run it when `constraints.txt` moves to another version of transformers or peft; a test says so.
"""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import asdict

from stoical.config.libraries import CLASSES, FILE, read_fields


def main() -> None:
    """Write the file for the versions that are installed."""
    versions = {library: importlib.metadata.version(library) for library, _ in CLASSES.values()}
    fields = {name: {key: asdict(field) for key, field in read_fields(name).items()} for name in CLASSES}
    FILE.write_text(json.dumps({"versions": versions, "fields": fields}, indent=1) + "\n", encoding="utf-8")
    print(f"{FILE}: {versions}")


if __name__ == "__main__":
    main()
