"""The discriminator of professor forcing: can one tell by the hidden states whether the model was led or walked itself?

Dimension letters: N sequences, T steps of the longest, H the model's hidden size, W width. All is float32, under
autocast too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import broadcast, reduce
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

MEMORY = 256  # sequences that the running accuracy looks back on


class Discriminator(nn.Module):
    """A linear layer, a bidirectional GRU of one layer and the mean over steps, to the logit of "it was led"."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(hidden_size, width)
        self.rnn = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)
        self.logit = nn.Linear(2 * (width // 2), 1)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """[N] logits of `states` [N, T, H], of which the first `lengths` [N] steps count."""
        with torch.autocast(states.device.type, enabled=False):
            steps = pack_padded_sequence(
                self.project(states.float()), lengths.cpu(), batch_first=True, enforce_sorted=False
            )
            outputs, _ = pad_packed_sequence(self.rnn(steps)[0], batch_first=True)
            logits: Tensor = self.logit(outputs.sum(dim=1) / lengths[:, None])[:, 0]
            return logits


class Opponent:
    """A discriminator that learns beside the model: weights, Adam, and how often it was right of late.

    Gradients, and the counts of right answers, are added up over micro-batches and, in `step`, over processes: every
    process makes the same step. Weights are drawn from torch's seed, without touching its generator.
    """

    def __init__(self, hidden_size: int, width: int, learning_rate: float, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(torch.initial_seed())  # torch.manual_seed would reset a GPU's, too
            self.module = Discriminator(hidden_size, width).to(device)
        with torch.no_grad():
            for weight in self.module.parameters():
                weight.copy_(broadcast(weight.data))
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=learning_rate)
        self.accuracy = 0.5
        self._right, self._seen = torch.zeros((), device=device), 0

    def judge(self, states: Tensor, lengths: Tensor) -> Tensor:
        """[N] logits with a graph back to `states` and none to the discriminator's weights."""
        with _frozen(self.module):
            logits: Tensor = self.module(states, lengths)
        return logits

    def learn(self, led: Tensor, led_lengths: Tensor, free: Tensor, free_lengths: Tensor) -> float:
        """Add the gradient of -log D(led) - log(1 - D(free)), and return its mean over pairs of sequences (nats)."""
        with torch.enable_grad():
            led_logits = self.module(led.detach(), led_lengths)
            free_logits = self.module(free.detach(), free_lengths)
            loss = softplus(-led_logits).sum() + softplus(free_logits).sum()
            loss.backward()  # type: ignore[no-untyped-call]
        self._right += (led_logits > 0).sum() + (free_logits <= 0).sum()
        self._seen += len(led_logits) + len(free_logits)
        return float(loss.detach()) / len(led_logits)

    def step(self, ceiling: float) -> None:
        """Take up the accuracy of what was seen since the last step, then learn from it unless over `ceiling`."""
        right, seen = reduce(torch.stack([self._right, self._right.new_tensor(float(self._seen))]), "sum").tolist()
        kept = (1 - 1 / MEMORY) ** seen
        self.accuracy = kept * self.accuracy + (1 - kept) * right / seen
        if self.accuracy < ceiling:
            for weight in self.module.parameters():
                weight.grad = reduce(weight.grad, "sum") / (seen / 2)
            self.optimizer.step()
        self.optimizer.zero_grad()
        self._right, self._seen = torch.zeros_like(self._right), 0

    def state_dict(self) -> dict[str, Any]:
        """Weights, the optimizer's state and the running accuracy, between two steps."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "accuracy": self.accuracy,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.accuracy = state["accuracy"]


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Let graphs that are made inside pass through the module without reaching its weights."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
