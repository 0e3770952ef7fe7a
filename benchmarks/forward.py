"""Training and scoring time of one query: packed layouts, one docID a row, and a plain causal pass.

    python -m benchmarks.forward
    python -m benchmarks.forward sizes=256x10,512x40 kv_heads=8 budget=10

On a randomly initialised Mistral-architecture model in float32. `plain` is a causal pass over as many tokens as the
packed sequence has, with as many logits and the same loss: what the packed layouts cannot beat. `pointwise` runs one
row a docID; where all rows are more than pointwise_tokens tokens, as many rows as fit are timed and the time is
multiplied up (rows are independent and of equal length).

Dimension letters: n docIDs, P prompt tokens, I inner trie nodes (the docID tokens that are inputs), S = I + 1 positions
with logits, R rows of one pointwise chunk, L tokens of the longest docID.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, MistralConfig, PreTrainedModel

from benchmarks.measure import Clock, interleaved, markdown_table, spread, waiting, write_results
from benchmarks.synthetic import random_query
from stoical.commands.shell import Command, execute
from stoical.common.options import option
from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.tokenized import TokenizedQuery
from stoical.models.forward import node_logprobs
from stoical.models.layouts import TRIE_ATTENTION
from stoical.models.reading import reading
from stoical.objectives.objective import weighted_nll
from stoical.trie.node_weights import TargetSettings

COMMAND = "python -m benchmarks.forward"
PACKED = ("sequence", "cache", "sequence, 4D mask")
MAX_DIFFERENCE = 1e-3  # nats, of a docID's log-probability: float32 over 4,000 tokens


@dataclass
class ForwardOptions:
    """What the user can set; `--help` prints it."""

    sizes: str = option("256x10,512x40,1024x60,4096x100", "queries to time: prompt tokens x docIDs, ...")
    hidden: int = option(512, "hidden size; the MLP is 3.5 times as wide, as Mistral-7B's is")
    layers: int = option(4, "number of layers")
    heads: int = option(8, "number of attention heads")
    kv_heads: int = option(2, "number of key and value heads; Mistral-7B has a quarter of its heads")
    vocab: int = option(4096, "size of the vocabulary")
    threads: int = option(1, "torch threads; with more, set clock=wall")
    clock: Literal["cpu", "wall"] = option("cpu", "the clock that the tables show; the JSON has both")
    budget: float = option(30.0, "seconds to spend on a size, training and scoring each; at least 3 rounds are made")
    pointwise_tokens: int = option(6000, "run no more tokens than this in one pointwise call, and multiply up")
    pointwise_rounds: int = option(3, "how often pointwise is timed")
    seed: int = option(0, "seed of weights, prompts and docIDs")
    out: str = option("forward", "results go to benchmarks/results/<out>.json and .md")


def make_model(options: ForwardOptions, attention: str) -> PreTrainedModel:
    """Random weights, the same for every attention implementation."""
    torch.manual_seed(options.seed)
    config = MistralConfig(
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 7 // 2,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        max_position_embeddings=32768,
        sliding_window=None,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)


def plain_loss(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """A causal pass over the packed tokens, with the packed pass's logits and reduction; the number means nothing."""
    slots = batch.input_ids.shape[1] - batch.prompt_width + 1
    slot = (batch.node_col - batch.prompt_width + 1).clamp(min=0)
    with reading(model, batch.node_row, slot, batch.node_token, "logprobs") as reader:
        logits = model(input_ids=batch.input_ids, logits_to_keep=slots, use_cache=False).logits
    return weighted_nll(reader.read(logits).logprobs, batch.node_weights)


def pointwise_logprobs(model: PreTrainedModel, query: TokenizedQuery, rows: int) -> Tensor:
    """[R] log-probability of the first R docIDs, one a row after its own copy of the prompt (nats)."""
    docids, device = query.docid_ids[:rows], model.device
    longest = max(len(ids) for ids in docids)
    padded = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in docids], device=device)  # [R, L]
    real = torch.arange(longest, device=device) < torch.tensor([len(ids) for ids in docids], device=device)[:, None]
    prompt = torch.tensor(query.prompt_ids, device=device).expand(rows, -1)
    logits = model(input_ids=torch.cat([prompt, padded[:, :-1]], 1), logits_to_keep=longest, use_cache=False).logits
    logprobs = logits.float().log_softmax(dim=-1).gather(2, padded[..., None])[..., 0]
    return torch.where(real, logprobs, 0.0).sum(dim=1)


@dataclass(frozen=True, slots=True)
class Size:
    """One query with its batch, and how many of its docIDs one pointwise call runs."""

    query: TokenizedQuery
    batch: PackedBatch
    rows: int

    @property
    def packed_tokens(self) -> int:
        """P + I."""
        return self.batch.input_ids.shape[1]

    @property
    def pointwise_tokens(self) -> int:
        """The tokens of one row a docID; a docID's last token is no input there either."""
        return sum(len(self.query.prompt_ids) + len(ids) - 1 for ids in self.query.docid_ids)


def make_size(text: str, options: ForwardOptions) -> Size:
    """The random query of a size such as `256x10`. Raises `ValueError` for anything else."""
    prompt, _, docs = text.partition("x")
    if not (prompt.isdecimal() and docs.isdecimal() and int(prompt) and int(docs)):
        raise ValueError(f"sizes: {text!r} is not of the form 256x10 (prompt tokens x docIDs)")
    query = random_query(options.seed, int(prompt), int(docs), options.vocab)
    batch = TrieTargetCollator(TargetSettings(item="fractional", alpha=2.0), pad_id=0, prune=True)([query])["batch"]
    longest = int(prompt) + max(len(ids) for ids in query.docid_ids) - 1
    return Size(query, batch, min(int(docs), max(1, options.pointwise_tokens // longest)))


def losses(size: Size, trie_model: PreTrainedModel, sdpa_model: PreTrainedModel) -> dict[str, Callable[[], Tensor]]:
    """The variants: each makes the query's loss, a scalar with a graph."""
    batch = size.batch

    def packed(model: PreTrainedModel, layout: Any) -> Tensor:
        return weighted_nll(node_logprobs(model, batch, layout).logprobs, batch.node_weights)

    def pointwise() -> Tensor:
        lam = torch.arange(1.0, size.rows + 1) ** -2.0
        return -(lam * pointwise_logprobs(sdpa_model, size.query, size.rows)).sum()

    return {
        "plain": lambda: plain_loss(sdpa_model, batch),
        "sequence": lambda: packed(trie_model, "sequence"),
        "cache": lambda: packed(trie_model, "cache"),
        "sequence, 4D mask": lambda: packed(sdpa_model, "sequence"),
        "pointwise": pointwise,
    }


def check_agreement(size: Size, trie_model: PreTrainedModel, sdpa_model: PreTrainedModel) -> float:
    """Largest difference of a docID's log-probability between pointwise and any packed variant (nats)."""
    path, worst = size.batch.doc_path[: size.rows], 0.0
    with torch.no_grad():
        wanted = pointwise_logprobs(sdpa_model, size.query, size.rows)
        for model, layout in ((trie_model, "sequence"), (trie_model, "cache"), (sdpa_model, "sequence")):
            logprobs = node_logprobs(model, size.batch, layout).logprobs  # type: ignore[arg-type]
            got = torch.where(path >= 0, logprobs[path.clamp(min=0)], 0.0).sum(dim=1)
            worst = max(worst, float((got - wanted).abs().max()))
    assert worst < MAX_DIFFERENCE, f"packed and pointwise differ by {worst} nats"
    return worst


def time_size(text: str, options: ForwardOptions, models: tuple[PreTrainedModel, PreTrainedModel]) -> dict[str, Any]:
    """All measurements of one size."""
    size = make_size(text, options)
    variants = losses(size, *models)

    def train(loss: Callable[[], Tensor]) -> None:
        for model in models:
            model.zero_grad(set_to_none=True)
        loss().backward()

    @torch.no_grad()
    def score(loss: Callable[[], Tensor]) -> None:
        loss()

    result: dict[str, Any] = {
        "size": text,
        "packed_tokens": size.packed_tokens,
        "pointwise_tokens": size.pointwise_tokens,
        "token_ratio": size.pointwise_tokens / size.packed_tokens,
        "pointwise_rows_timed": size.rows,
        "max_difference_nats": check_agreement(size, *models),
    }
    for mode, step in (("training", train), ("scoring", score)):
        calls = {name: lambda loss=loss, step=step: step(loss) for name, loss in variants.items()}
        few = {"pointwise": options.pointwise_rounds}
        times = interleaved(calls, options.budget, rounds=(3, 40), few=few)
        scale = len(size.query.docids) / size.rows
        times["pointwise"] = {
            clock: [value * scale for value in values] for clock, values in times["pointwise"].items()
        }
        result[mode] = times
    return result


def summarise(results: list[dict[str, Any]], mode: str, clock: Clock) -> str:
    """A table of one mode: medians, ratios to `plain`, and how much faster than pointwise `sequence` is."""
    rows = []
    for result in results:
        middle = {name: median(entry[clock]) for name, entry in result[mode].items()}
        row = {"P x n": result["size"], "tokens": result["packed_tokens"], "plain, s": f"{middle['plain']:.3f}"}
        row |= {f"{name} / plain": f"{middle[name] / middle['plain']:.2f}" for name in PACKED}
        speed_up = middle["pointwise"] / middle["sequence"]
        row |= {"pointwise, s": f"{middle['pointwise']:.2f}", "speed-up": f"{speed_up:.1f}"}
        row |= {"token ratio": f"{result['token_ratio']:.1f}", "share": f"{speed_up / result['token_ratio']:.2f}"}
        worst = max(spread(entry[clock]) for entry in result[mode].values())
        row |= {"rounds": len(result[mode]["plain"][clock]), "noise": f"{worst:.0%}"}
        row |= {"waiting": f"{waiting(result[mode].values()):.0%}"}
        rows.append(row)
    return markdown_table(rows)


def run(options: ForwardOptions) -> None:
    """Time every size and write the results."""
    torch.set_num_threads(options.threads)
    models = (make_model(options, TRIE_ATTENTION), make_model(options, "sdpa"))
    results = [time_size(text, options, models) for text in options.sizes.split(",")]
    tables = {mode: summarise(results, mode, options.clock) for mode in ("training", "scoring")}
    write_results(options.out, COMMAND, sys.argv[1:], asdict(options), results, tables)


def main() -> int:
    """Entry point of `python -m benchmarks.forward`."""
    command = Command(__doc__ or "", lambda given: run(given.options), ForwardOptions, bare=True)
    return execute(command, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
