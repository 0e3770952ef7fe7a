"""What a forward pass is read for: log-probabilities of trie nodes, and of all logits as much as is wanted.

Dimension letters: R rows that the model runs, S read-out slots of each, M trie nodes, V vocabulary.

Where nobody wants the logits and the head is a plain linear layer, the head gives the nodes' log-probabilities instead
(`chunked_head`). It is called where it always is, within the model's forward pass, so that DDP, FSDP2 and peft do what
they do around every forward: weights are whole when the head runs, and gradients find their way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from threading import RLock
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from stoical.models.chunked_head import AfterHead, chunked_logprobs, in_chunks
from stoical.models.modes import eval_mode
from stoical.models.unwrapped import unwrapped

Keep = Literal["logprobs", "likeliest", "logits"]
_ONE_PASS = RLock()


@dataclass(frozen=True, slots=True)
class Read:
    """logprobs [M] float32, nats, 0 at roots; and if kept, logits [R, S, V] and the likeliest tokens [R, S]."""

    logprobs: Tensor
    logits: Tensor | None = None
    likeliest: Tensor | None = None


@dataclass(slots=True)
class Reader:
    """Reads the M nodes of a pass at row, slot [M] their tokens [M], -1 at roots; `keep` says what for."""

    row: Tensor
    slot: Tensor
    token: Tensor
    keep: Keep
    _reduced: Read | None = None  # what the head gave in this pass, in full precision
    _given: Tensor | None = None  # the same log-probabilities as wrappers of the head hand them on

    def read(self, logits: Tensor) -> Read:
        """What the pass whose output has these `logits` was read for."""
        if self._reduced is not None:
            return replace(self._reduced, logprobs=_through(logits, self._reduced.logprobs))
        logprobs = read_nodes(logits, self.row, self.slot, self.token)
        if self.keep == "logits":
            return Read(logprobs, logits)
        return Read(logprobs, likeliest=logits.argmax(dim=-1) if self.keep == "likeliest" else None)

    def reduce(self, head: nn.Linear, after: AfterHead, states: Tensor) -> Tensor:
        """In the place of `head(states)`: log-probabilities [1, 1, M], or all logits where these are few."""
        rows = states.flatten(0, -2)
        if not in_chunks(len(rows), head.out_features):
            return nn.functional.linear(states, head.weight, head.bias)
        place = self.row * states.shape[-2] + self.slot
        given = (rows, head.weight, head.bias, place, self.token, after)
        logprobs, best = chunked_logprobs(*given, likeliest=self.keep == "likeliest")
        self._reduced = Read(logprobs, likeliest=None if best is None else best.view(states.shape[:-1]))
        return logprobs[None, None]

    def keep_given(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        """A forward hook of the head."""
        self._given = output

    def hand_out(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """A forward hook of the model: puts what the head gave in the place of what the model made of it."""
        if self._reduced is not None:
            output.logits = self._given
        return output


def read_nodes(logits: Tensor, row: Tensor, slot: Tensor, token: Tensor) -> Tensor:
    """[M] log-softmax of `logits` [R, S, V] at (row, slot, token), in float32; 0 where the token is -1 (a root)."""
    normalizer = torch.logsumexp(logits.float(), dim=-1)
    picked = logits[row, slot, token.clamp(min=0)].float() - normalizer[row, slot]
    return torch.where(token >= 0, picked, 0.0)


def _through(given: Tensor, exact: Tensor) -> Tensor:
    """The values `exact` [M] with the gradient of `given` [1, 1, M]: the same, unless a wrapper rounded it (FSDP2)."""
    given = given.flatten()
    return given if given.dtype == exact.dtype else exact.detach() + (given - given.detach())


@contextmanager
def reading(model: nn.Module, row: Tensor, slot: Tensor, token: Tensor, keep: Keep) -> Iterator[Reader]:
    """In here `model` is called once, and the reader then reads its output's logits, whatever they are.

    One thread at a time: what takes the head's place meanwhile would read another's pass.
    """
    with _ONE_PASS:
        yield from _reading(model, Reader(row, slot, token, keep))


def _reading(model: nn.Module, reader: Reader) -> Iterator[Reader]:
    called, language_model = _called(model)
    head = None if reader.keep == "logits" else _plain(language_model)
    after = None if head is None else _after_head(model, language_model, head)
    if head is None or after is None:
        yield reader
        return
    with ExitStack() as undo:
        undo.enter_context(head.register_forward_hook(reader.keep_given))
        for module in {called, language_model}:  # before FSDP2's own hook: gradients come to the outputs that it sees
            undo.enter_context(module.register_forward_hook(reader.hand_out, prepend=True))
        head.forward = partial(reader.reduce, head, after)  # type: ignore[method-assign]
        undo.callback(head.__delattr__, "forward")
        yield reader


def _called(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The modules that a forward pass calls: peft's wrapper, or, after its soft prompt, the language model itself."""
    inner = unwrapped(model)
    return inner, inner.get_base_model() if isinstance(inner, PeftModel) else inner


def plain_head(model: nn.Module) -> nn.Linear | None:
    """The head if it is a linear layer as PyTorch has it, its weight whole or a DTensor: no adapter, not quantized."""
    return _plain(_called(model)[1])


def _plain(language_model: nn.Module) -> nn.Linear | None:
    head = language_model.get_output_embeddings() if isinstance(language_model, PreTrainedModel) else None
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward or "forward" in vars(head):
        return None
    weight = head.weight
    plain = type(weight) is nn.Parameter or isinstance(weight, DTensor)
    whole = weight.shape == (head.out_features, head.in_features)  # FSDP1 has it flat here, ZeRO-3 empty
    return head if plain and whole else None


_AFTER_HEADS: WeakKeyDictionary[nn.Module, AfterHead | None] = WeakKeyDictionary()


def _after_head(model: nn.Module, language_model: Any, head: nn.Linear) -> AfterHead | None:
    """What the model makes of its head's outputs, tried out once on one token; None where that is something else."""
    if language_model not in _AFTER_HEADS:
        after = AfterHead.of(language_model.config)
        _AFTER_HEADS[language_model] = after if _tried(model, head, after) else None
    return _AFTER_HEADS[language_model]


def _tried(model: nn.Module, head: nn.Linear, after: AfterHead) -> bool:
    """Whether the model turns known outputs of its head, near 0 and far from it, into the logits that `after` makes."""
    outputs: list[Tensor] = []

    def give(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        known = torch.linspace(-1000, 1000, output.shape[-1], device=output.device).to(output.dtype)
        outputs.append(known.expand_as(output))
        return outputs[-1]

    one = torch.zeros(1, 1, dtype=torch.int64, device=next(model.parameters()).device)
    with head.register_forward_hook(give), eval_mode(model), torch.no_grad():
        found = model(input_ids=one, attention_mask=one + 1, logits_to_keep=1, use_cache=False).logits
    if len(outputs) != 1 or found.shape != outputs[0].shape:
        return False
    rounding = max(torch.finfo(each.dtype).eps for each in (found, outputs[0]))
    return torch.allclose(found.float(), after(outputs[0].float()), rtol=max(4 * rounding, 1e-5), atol=0)
