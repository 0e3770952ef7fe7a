"""The commands that documents show."""

from __future__ import annotations

import re

from tests.support.root import ROOT


def commands(document: str) -> list[str]:
    """The lines of the document's bash blocks, without their comments."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]
