"""Commands as a shell runs them, in this process."""

from __future__ import annotations

import sys

from stoical.commands.main import main


def run(*words: str) -> int:
    """The exit code of `stoical words...`, in a process that is as fresh as a command's."""
    if "accelerate" in sys.modules:  # it keeps one state a process, and a test may stand for several
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    return main(words)
