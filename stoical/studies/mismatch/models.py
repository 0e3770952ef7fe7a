"""Many small autoregressive models at once: a replication axis R before every parameter.

Dimension letters: R replications, Q queries of each, F features, H state, V vocabulary, L tokens of a docID, N prefixes
of a replication in one batch (n of them of one length), M trie nodes of the batch.

A model is called with a `PackedBatch` and gives a `NodeOutput`, as `models.forward.node_logprobs` does for a language
model: objectives do not know the difference. Its rows are replications. No parameter of one reaches another's
log-probabilities, so that one optimizer step on a sum of losses is a step of each by itself.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stoical.decoding.walks import has_children
from stoical.encoding.packed_batch import PackedBatch
from stoical.models.forward import NodeOutput

if TYPE_CHECKING:
    from stoical.models.mixtures import Mixture


@dataclass(frozen=True, slots=True)
class Level:
    """The prefixes of one length: parent [R, n] places in the level before, token [R, n] the last token of each.

    row [R, n]: the batch's row. Replications with fewer prefixes are padded with places, of row -1, that nothing reads.
    """

    parent: Tensor
    token: Tensor
    row: Tensor


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a batch's prefixes stand: queries [R, n] of the empty ones, `levels` of length 1 up, and by node [M] the
    replication and the place, among a replication's prefixes of all lengths, where its log-probability is read.
    """

    queries: Tensor
    levels: list[Level]
    replication: Tensor
    place: Tensor


def make_plan(batch: PackedBatch, queries: int, replications: int) -> Plan:
    """The plan of a batch whose query_ids are numbers: r * Q + q for query q of replication r, in ascending r."""
    name = torch.tensor([int(word) for word in batch.query_ids])
    owner, inner = name // queries, has_children(batch)
    place, before = torch.full_like(batch.node_token, -1), torch.zeros_like(batch.node_token)
    levels, asked, offset = [], torch.empty(0), 0
    for depth in range(int(batch.node_depth.max())):
        nodes = (inner & (batch.node_depth == depth)).nonzero()[:, 0]
        row = batch.node_row[nodes]
        start = torch.searchsorted(owner[row].contiguous(), torch.arange(replications))
        within = torch.arange(len(nodes)) - start[owner[row]]
        width = int(within.max()) + 1 if len(nodes) else 0
        if not width:
            break
        flat = owner[row] * width + within
        token, parent = (torch.zeros(replications * width, dtype=torch.int64) for _ in range(2))
        rows = torch.full_like(token, -1)
        rows[flat] = row
        if depth:
            token[flat], parent[flat] = batch.node_token[nodes], before[batch.node_parent[nodes]]
            shaped = (tensor.view(replications, width) for tensor in (parent, token, rows))
            levels.append(Level(*shaped))
        else:
            asked = name[rows.clamp(min=0)].view(replications, width) % queries
        before[nodes], place[nodes] = within, offset + within
        offset += width
    return Plan(asked, levels, owner[batch.node_row], place[batch.node_parent])


class Replicated(nn.Module):
    """What the models share: a state after every prefix, made of the state before and the last token."""

    def __init__(self, features: Tensor) -> None:
        """`features` [R, Q, F] of every query."""
        super().__init__()
        self.features = features
        self.plans: dict[int, tuple[PackedBatch, Plan]] = {}

    @abstractmethod
    def start(self, queries: Tensor) -> Tensor:
        """[R, n, H] the state of the empty prefix after `queries` [R, n]."""

    @abstractmethod
    def extend(self, state: Tensor, step: int, embedded: Tensor) -> Tensor:
        """[R, n, H] the state after prefixes of `step` tokens, whose last token is `embedded` [R, n, H]."""

    @abstractmethod
    def embeddings(self, step: int) -> Tensor:
        """[R, V, H] what the tokens at a position, from 1, are before they enter the state."""

    @abstractmethod
    def logits(self, state: Tensor, step: int) -> Tensor:
        """[R, n, V] of the token after prefixes of `step` tokens."""

    def embedded(self, step: int, tokens: Tensor) -> Tensor:
        """[R, n, H] what `tokens` [R, n] at that position are."""
        return rows_of(self.embeddings(step), tokens)

    def remember(self, batch: PackedBatch) -> None:
        """Keep the plan of a batch that will come again."""
        self.plans[id(batch)] = batch, make_plan(batch, self.features.shape[1], len(self.features))

    def forward(self, batch: PackedBatch, mixture: Mixture | None = None) -> NodeOutput:
        """Log-probabilities of every node, logits and states [R, N, ...]; `mixture` in the places of some tokens."""
        known = self.plans.get(id(batch))
        plan = known[1] if known and known[0] is batch else make_plan(batch, self.features.shape[1], len(self.features))
        return self.read(batch, plan, mixture)

    def read(self, batch: PackedBatch, plan: Plan, mixture: Mixture | None = None) -> NodeOutput:
        """The same, by a plan that is known."""
        states = [self.start(plan.queries)]
        logits = [self.logits(states[0], 0)]
        for step, level in enumerate(plan.levels, 1):
            embedded = self.embedded(step, level.token)
            if mixture is not None:
                embedded = mixed(embedded, self.embeddings(step), level, batch, step, mixture)
            states.append(self.extend(rows_of(states[-1], level.parent), step, embedded))
            logits.append(self.logits(states[-1], step))
        read = torch.cat(logits, dim=1)
        width, vocabulary = read.shape[1:]
        flat = (plan.replication * width + plan.place) * vocabulary + batch.node_token.clamp(min=0)
        logprobs = read.log_softmax(dim=-1).reshape(-1)[flat]
        logprobs = torch.where(batch.node_token >= 0, logprobs, 0.0)
        return NodeOutput(logprobs, read, plan.replication, plan.place, torch.cat(states, dim=1))

    def chain(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """[R, n, L, V] logits along `tokens` [R, n, L] of queries [R, n]: after the first t - 1 tokens, at t."""
        state = self.start(queries)
        logits = [self.logits(state, 0)]
        for step in range(1, tokens.shape[2]):
            state = self.extend(state, step, self.embedded(step, tokens[..., step - 1]))
            logits.append(self.logits(state, step))
        return torch.stack(logits, dim=2)


def rows_of(values: Tensor, place: Tensor) -> Tensor:
    """[R, n, H] of `values` [R, m, H] those at `place` [R, n]."""
    first = torch.arange(len(values))[:, None] * values.shape[1]
    return values.flatten(0, 1).index_select(0, (first + place).flatten()).view(*place.shape, -1)


def mixed(embedded: Tensor, table: Tensor, level: Level, batch: PackedBatch, step: int, mixture: Mixture) -> Tensor:
    """`embedded` [R, n, H] with mixtures of `table` [R, V, H] at the places that `mixture` names at this step."""
    here = (mixture.column - batch.prompt_width + 1 == step).nonzero()[:, 0]
    if not len(here):
        return embedded
    place, real = torch.full((len(batch.query_ids),), -1), (level.row.flatten() >= 0).nonzero()[:, 0]
    place[level.row.flatten()[real]] = real
    where = place[mixture.row[here]]
    tokens = table[where // level.row.shape[1]][:, mixture.tokens]
    made = (mixture.weights[here, :, None] * tokens).sum(dim=1)
    return embedded.flatten(0, 1).index_put((where,), made).view_as(embedded)


class Bigram(Replicated):
    """logits_t = b_t + C_t[y_{t-1}]: position-specific, blind to the query. The state is the token's row of C."""

    def __init__(self, features: Tensor, vocabulary: int, length: int, scale: float, seed: int) -> None:
        super().__init__(features)
        random = torch.Generator().manual_seed(seed)
        shape = (len(features), vocabulary)
        bias = [scale * torch.randn(*shape, generator=random) for _ in range(length)]
        after = [scale * torch.randn(*shape, vocabulary, generator=random) for _ in range(length - 1)]
        self.bias, self.after = nn.ParameterList(bias), nn.ParameterList(after)

    def start(self, queries: Tensor) -> Tensor:
        """Nothing is known of a query."""
        return torch.zeros(*queries.shape, self.bias[0].shape[-1])

    def embeddings(self, step: int) -> Tensor:
        """Rows of C."""
        return self.after[step - 1]

    def extend(self, state: Tensor, step: int, embedded: Tensor) -> Tensor:
        """The last token is all that counts."""
        return embedded

    def logits(self, state: Tensor, step: int) -> Tensor:
        """The position's bias and the last token's row."""
        return self.bias[step][:, None] + state


class Recurrent(Replicated):
    """state = tanh(state A_t + E_t[y_t] + c_t) after a query's tanh(x W + c_0); logits = state O_t + b_t.

    Position-specific, or with `shared` one A, E, c, O and b for all positions.
    """

    def __init__(
        self, features: Tensor, vocabulary: int, length: int, hidden: int, seed: int, shared: bool = False
    ) -> None:
        super().__init__(features)
        random = torch.Generator().manual_seed(seed)
        replications, number = len(features), features.shape[2]

        def weights(*shape: int, scale: float, count: int = length) -> nn.ParameterList:
            """One for every position: a slice of one tensor would have a gradient of the whole one's size."""
            each = (replications, *shape)
            return nn.ParameterList(scale * torch.randn(*each, generator=random) for _ in range(1 if shared else count))

        self.shared, self.shape = shared, (vocabulary, length, hidden)
        self.first = nn.Parameter(number**-0.5 * torch.randn(replications, number, hidden, generator=random))
        self.about = nn.Parameter(torch.zeros(replications, 1, hidden))
        self.again = weights(hidden, hidden, scale=hidden**-0.5, count=length - 1)  # the last token is never fed
        self.offset = weights(1, hidden, scale=0.0, count=length - 1)
        self.embed = weights(vocabulary, hidden, scale=0.5, count=length - 1)
        self.out = weights(hidden, vocabulary, scale=hidden**-0.5)
        self.bias = weights(1, vocabulary, scale=0.0)

    def part(self, numbers: list[int]) -> Recurrent:
        """The models of some replications."""
        part = Recurrent(self.features[numbers], *self.shape, seed=0, shared=self.shared)
        own = {name: tensor[numbers] for name, tensor in self.state_dict().items()}
        part.load_state_dict(own)
        return part

    def _at(self, step: int) -> int:
        return 0 if self.shared else step

    def start(self, queries: Tensor) -> Tensor:
        """Of the query's features."""
        return (torch.bmm(rows_of(self.features, queries), self.first) + self.about).tanh()

    def embeddings(self, step: int) -> Tensor:
        """E_t."""
        return self.embed[self._at(step - 1)]

    def extend(self, state: Tensor, step: int, embedded: Tensor) -> Tensor:
        """One step of the recurrence."""
        at = self._at(step - 1)
        return (torch.bmm(state, self.again[at]) + embedded + self.offset[at]).tanh()

    def logits(self, state: Tensor, step: int) -> Tensor:
        """O_t and b_t."""
        at = self._at(step)
        return torch.bmm(state, self.out[at]) + self.bias[at]
