"""SPIN (self-play fine-tuning, Chen et al. 2024, arXiv 2401.01335): DPO against the model's own outputs, in iterations.

  stoical spin checkpoint=RUN output=DIR [spin.iterations=3] [key=value ...]
  accelerate launch -m stoical spin checkpoint=RUN output=DIR

Iteration k starts from the model p_k, the checkpoint at first, and p_k is its reference. p_k writes an output y' for
every prompt of the training split, sampled over the whole vocabulary; the pairs are (a document of rank 1, drawn anew
each iteration, y'), but for those where y' is right. Iteration k trains on the pairs of iterations k - 1 and k. For
rankings, and for plain text: a row with one document.

spin.temperature=0 writes greedily; spin.max_new_tokens ends an output without EOS; spin.num_queries takes a sample of
the queries, another one each iteration; spin.beta is 0.1. training.* is that of one iteration; as the authors' own
configuration for 7 billion weights: RMSprop at 5e-7, 10% warm-up, linear decay, 3 epochs. Small models want more. Other
settings are as with stoical dpo.

output/iteration-K, from 1, is the run of iteration K, with its pairs (pairs.parquet) and where they are from
(pairs.json); stoical evaluate checkpoint=DIR takes the last one. resume=auto continues a stopped command.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from stoical.commands.shell import RESUME, Command, Given, quiet_libraries
from stoical.common.options import option
from stoical.data.files import check_dataset
from stoical.preferences.settings import SPIN_TRAINING, SpinSettings
from stoical.preferences.start import load_start


@dataclass
class SpinOptions:
    """What `stoical spin` takes beside a recipe's settings."""

    checkpoint: str = option("", "a run (its last checkpoint is taken) or a checkpoint to start from", required=True)
    output: str = option("", "the directory of the new run", required=True)
    spin: SpinSettings = field(default_factory=SpinSettings)


def run(given: Given) -> None:
    """Train from the checkpoint."""
    options = given.options
    given.options.spin.check()
    start, recipe = load_start(options.checkpoint, options.output, given.settings, SPIN_TRAINING)
    check_dataset(recipe.data.path)
    from stoical.preferences.spin import run_spin

    quiet_libraries()
    run_spin(recipe, start, options.spin)


main = Command(str(__doc__), run, SpinOptions, settings=True, goes_on=RESUME)
