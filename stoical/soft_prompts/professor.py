"""Professor forcing (Lamb et al. 2016): hidden states of the model's own writing should look like those of led writing.

Dimension letters: B targets, T tokens of the longest, H hidden size.

The discriminator is shared by all targets of a batch: of one target alone, it would learn that text by heart.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from stoical.soft_prompts.outputs import greedy, output_mask
from stoical.soft_prompts.settings import SoftPromptSettings
from stoical.soft_prompts.step import Step
from stoical.soft_prompts.teacher_forced import cross_entropy


def professor_forcing(step: Step, settings: SoftPromptSettings) -> Tensor:
    """Cross-entropy, and -log D(h) of the states h of a greedy output, D telling led from free.

    While the discriminator is too weak to be learnt from, cross-entropy alone. The discriminator learns here, too.
    """
    assert step.opponent is not None
    assert step.hidden is not None
    outputs, opponent, targets = greedy(step), step.opponent, step.targets
    lengths = output_mask(outputs, targets, step.frozen.eos)[0].sum(dim=1)
    _, free = step.frozen.teacher_forced(step.prompts, outputs[0], hidden=True)
    assert free is not None
    opponent.learn(step.hidden, targets.lengths, free, lengths)
    loss = cross_entropy(step, settings)
    if opponent.accuracy <= settings.professor_forcing.floor:
        return loss
    return loss + settings.professor_forcing.weight * softplus(-opponent.judge(free, lengths)).sum()
