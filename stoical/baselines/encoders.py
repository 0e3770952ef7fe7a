"""Lookup encoders and their losses: Eq. 13 and 14 of the SToICaL paper, section 5.3.

Dimension letters: V items (queries and documents share one table), n numbers an item, B pairs of a batch, U different
documents among them. Scores are inner products or logits, without unit; losses are in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stoical.config.encoders import CrossEncoderSettings, DualEncoderSettings, EncoderSettings


class DualEncoder(nn.Module):
    """A table [V, n] of unit vectors; the score of a document is its inner product with the query."""

    def __init__(self, items: int, settings: DualEncoderSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.settings = settings
        self.table = nn.Parameter(torch.randn(items, settings.dim, generator=generator))
        self.after_step()

    def forward(self, query: Tensor, doc: Tensor) -> Tensor:
        """[B] scores of pairs of items [B], [B]."""
        return (F.embedding(query, self.table) * F.embedding(doc, self.table)).sum(dim=1)

    def loss(self, query: Tensor, doc: Tensor, weight: Tensor, permutation: Tensor) -> Tensor:
        """Eq. 13, the weighted batch softmax; `weight` [B] is lambda(r). Draws no negatives: `permutation` is unused.

        The denominator sums over the batch's documents, each as often as it is there. A document that is there m times
        is one column of the matmul with log m added: [B, U] in place of [B, B], the same sum.
        """
        docs, own, counts = torch.unique(doc, return_inverse=True, return_counts=True)
        queries = F.embedding(query, self.table) / self.settings.temperature
        logits = queries @ F.embedding(docs, self.table).T
        normalizer = torch.logsumexp(logits + counts.to(logits.dtype).log(), dim=1)
        return (weight * (normalizer - logits.gather(1, own[:, None])[:, 0])).mean()

    def optimizer(self, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
        """SGD with momentum (A.2)."""
        momentum = self.settings.momentum
        return torch.optim.SGD(self.parameters(), learning_rate, momentum, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def after_step(self) -> None:
        """Project every row to the unit sphere (A.2), those that the step's batch did not hold too.

        Momentum moves these as well. Between two batches that hold it, a row stays in the plane of itself and its
        momentum m, which shrinks by the factor mu a step, so it could be caught up with when it is next needed: it is
        the projection of w - c m, where c grows by lr mu^j |w - c m| at the j-th step. That norm keeps the sum from a
        closed form, and its loop over the missed steps costs more than all rows do (docs/encoders.md has the figures).
        """
        self.table.copy_(F.normalize(self.table))


class CrossEncoder(nn.Module):
    """A table [V, n] and an MLP over the concatenated vectors of query and document, whose output is the score."""

    def __init__(self, items: int, settings: CrossEncoderSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.settings, width = settings, 2 * settings.dim
        self.table = nn.Parameter(torch.randn(items, settings.dim, generator=generator) * settings.embedding_std)
        layers = [nn.Linear(width, out) for out in [width] * settings.hidden_layers + [1]]
        for layer in layers:  # A.3: Gaussian weights of variance 1 / (2n), biases 0
            nn.init.normal_(layer.weight, std=width**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)

    def forward(self, query: Tensor, doc: Tensor) -> Tensor:
        """[B] scores of pairs of items [B], [B]."""
        hidden = torch.cat([F.embedding(query, self.table), F.embedding(doc, self.table)], dim=1)
        for layer in self.layers[:-1]:
            hidden = layer(hidden).relu()
        return self.layers[-1](hidden)[:, 0]

    def loss(self, query: Tensor, doc: Tensor, weight: Tensor, permutation: Tensor) -> Tensor:
        """Eq. 14: pairs by their share of the batch's lambda, and as many negatives, documents by `permutation` [B].

        A negative may be a document of its query all the same: the paper's permutation does not look. Where all of a
        batch's weights are 0, only the negatives count.
        """
        share = weight / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
        scores = self(torch.cat([query, query]), torch.cat([doc, doc[permutation]]))
        positive, negative = scores.split(len(query))
        return -(share * F.logsigmoid(positive)).sum() - F.logsigmoid(-negative).mean()

    def optimizer(self, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
        """Adam (A.3), with weight decay as `settings.decay` says."""
        kind = torch.optim.AdamW if self.settings.decay == "decoupled" else torch.optim.Adam
        return kind(self.parameters(), learning_rate, weight_decay=weight_decay, fused=True)

    def after_step(self) -> None:
        """Nothing: only the dual encoder's rows stay on the sphere."""


Encoder = DualEncoder | CrossEncoder


def is_finite(encoder: nn.Module) -> bool:
    """False where a weight has become NaN or infinite."""
    return all(bool(weight.isfinite().all()) for weight in encoder.parameters())


def new_encoder(items: int, settings: EncoderSettings, seed: int) -> Encoder:
    """An untrained encoder of `items` rows; the same seed gives the same weights."""
    generator = torch.Generator().manual_seed(seed)
    if isinstance(settings, DualEncoderSettings):
        return DualEncoder(items, settings, generator)
    return CrossEncoder(items, settings, generator)
