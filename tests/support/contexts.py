"""Steps of training that need no model."""

from __future__ import annotations


class Context:
    """As much of a `StepContext` as objectives read, with log-probabilities of one's own."""

    def __init__(self, batch, node_logprobs, step):
        self.batch, self.node_logprobs, self.step, self.run_steps = batch, node_logprobs, step, None
