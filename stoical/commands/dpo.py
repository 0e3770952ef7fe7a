"""Direct preference optimization (DPO, Rafailov et al. 2023) from any checkpoint, by TRL.

  stoical dpo checkpoint=RUN output=DIR [dpo.source=beam|ranking|free] [key=value ...]
  accelerate launch -m stoical dpo checkpoint=RUN output=DIR

checkpoint is a run (its last checkpoint is taken) or a checkpoint, of full weights or LoRA: policy and reference both
start there. The pairs come out of the training split, with the prompts that training begins with:

  dpo.source=beam      a document of rank 1 above those that the checkpoint's own constrained beam search
                       (dpo.num_beams) puts before it
  dpo.source=ranking   documents above others: dpo.pairs=top (rank 1 above each), adjacent ranks, or random
  dpo.source=free      a document of rank 1 above what the checkpoint writes without constraint: greedily, or sampled
                       with dpo.temperature; up to dpo.max_new_tokens. For plain text, too: a row with one document.

Of several documents of rank 1 each makes its own pairs; with dpo.source=free they take turns.

dpo.per_query limits the pairs of a query, dpo.num_queries takes a sample of the queries; dpo.beta is 0.1. Other
settings are the checkpoint's (data.path, prompt, how evaluation scores); global_batch_size counts pairs. Of its
training section only precision and batch size stay; the rest is the method's, for training.* to change: RMSprop at
1e-6, 10% warm-up, linear decay, one epoch.

output becomes a run as those of stoical train are, with the pairs (pairs.parquet) and where they are from (pairs.json);
resume=auto continues it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from stoical.commands.shell import RESUME, Command, Given, quiet_libraries
from stoical.common.options import option
from stoical.data.files import check_dataset
from stoical.preferences.settings import DPO_TRAINING, DPOSettings
from stoical.preferences.start import load_start


@dataclass
class DPOOptions:
    """What `stoical dpo` takes beside a recipe's settings."""

    checkpoint: str = option("", "a run (its last checkpoint is taken) or a checkpoint to start from", required=True)
    output: str = option("", "the directory of the new run", required=True)
    dpo: DPOSettings = field(default_factory=DPOSettings)


def run(given: Given) -> None:
    """Train from the checkpoint."""
    options = given.options
    given.options.dpo.check("dpo", [name.removeprefix("dpo.") for name in given.names])
    start, recipe = load_start(options.checkpoint, options.output, given.settings, DPO_TRAINING)
    check_dataset(recipe.data.path)
    from stoical.preferences.dpo import run_dpo

    quiet_libraries()
    run_dpo(recipe, start, options.dpo)


main = Command(str(__doc__), run, DPOOptions, settings=True, goes_on=RESUME)
