"""Write a trained model whole: adapters merged into the model below them, weights in one type.

  stoical export checkpoint=DIR output=DIR [dtype=float32|bfloat16]

checkpoint is a run (its last checkpoint is taken) or a checkpoint. The result loads with
`AutoModelForCausalLM.from_pretrained`, and as a checkpoint of stoical's own commands. Adapters are merged in float32,
never onto quantized weights: those of a quantized model are loaded whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stoical.commands.shell import Command, Given, quiet_libraries
from stoical.common.options import option
from stoical.config.recipe import DType
from stoical.runs.find import find_checkpoint


@dataclass
class ExportOptions:
    """What `stoical export` takes."""

    checkpoint: str = option("", "a run (its last checkpoint is taken) or a checkpoint", required=True)
    output: str = option("", "the directory to write, which must be empty or not there", required=True)
    dtype: DType = option("float32", "of the weights written: float32 or bfloat16")


def run(given: Given) -> None:
    """Write the model."""
    options = given.options
    checkpoint, output = find_checkpoint(options.checkpoint), Path(options.output)
    from stoical.training.export import export

    quiet_libraries()
    difference = export(checkpoint, output, options.dtype)
    print(
        f"{checkpoint} written whole to {output} and loaded again: log-probabilities differ by at most "
        f"{difference:.1e} nats; evaluate with: stoical evaluate checkpoint={output}"
    )


main = Command(str(__doc__), run, ExportOptions)
