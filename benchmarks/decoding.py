"""Constrained decoding over a catalogue of a million docIDs, against transformers' own `prefix_allowed_tokens_fn`.

    python -m benchmarks.decoding
    python -m benchmarks.decoding docs=20000 budget=1 long_prompt=256 catalogues=random

Three ways to stay on the same docIDs: `stoical` gathers the children of each beam's node (`stoical.decoding`),
`processor` is `TrieLogitsProcessor` under `model.generate`, and `prefix fn` is `prefix_allowed_tokens_fn` with a trie
of nested dictionaries, which gives a beam's tokens the list of allowed ones.

- `constraint`: one step's constraint alone, from log-probabilities [K, V] to those of the allowed continuations. depth
  is how many tokens of the docID are written; over several, the mean step.
- `step`: the same, with the log-softmax before it and the choice of the next K beams after it.
- `decode`: all of a search with a small model. `generate` runs the prompt once a beam, stoical once.
- `tries`: building (processor time), saving and loading (wall time, from the page cache).
- `cache`: the tensors of keys and values that are left after a decode of a long prompt.

Dimension letters: K beams, V vocabulary, C children of all beams together, P prompt tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, LogitsProcessor, MistralConfig, PreTrainedModel

from benchmarks.catalogues import CATALOGUES, Catalogue, measure_catalogue
from benchmarks.measure import Clock, Times, interleaved, markdown_table, spread, waiting, write_results
from benchmarks.synthetic import EOS, FIRST_TOKEN
from stoical.commands.shell import Command, execute
from stoical.common.options import option
from stoical.decoding.beam_search import _Beams, _ended, _expand, _Finished, _live, beam_search
from stoical.decoding.device_trie import DeviceTrie
from stoical.models.attention import register
from stoical.models.layouts import TRIE_ATTENTION

COMMAND = "python -m benchmarks.decoding"
DEPTHS = {"0": [0], "1": [1], "4": [4], "0 to 7": list(range(8))}  # tokens of the docID that are already written
REPEATS = {"stoical": 20, "processor": 5, "prefix fn": 1}  # calls a timing


@dataclass
class DecodingOptions:
    """What the user can set; `--help` prints it."""

    docs: int = option(1_000_000, "docIDs in a catalogue")
    catalogues: str = option("random,wordnet", f"which: {', '.join(CATALOGUES)}")
    beams: str = option("1,10,100", "numbers of beams")
    prompt: int = option(256, "prompt tokens of a step and of a decode")
    long_prompt: int = option(2048, "prompt tokens where the cache is measured, with the most beams")
    hidden: int = option(256, "hidden size of the model: 2 layers, heads of 64, half as many key and value heads")
    vocab: int = option(32768, "size of the vocabulary; the wordnet catalogue needs Mistral's 32768")
    threads: int = option(1, "torch threads; with more, set clock=wall")
    clock: Literal["cpu", "wall"] = option("cpu", "the clock that the tables show; the JSON has both")
    budget: float = option(10.0, "seconds for each row of a table; at least 3 rounds are made")
    seed: int = option(0, "seed of weights, prompts, docIDs and beams")
    out: str = option("decoding", "results go to benchmarks/results/<out>.json and .md")


def make_model(options: DecodingOptions) -> PreTrainedModel:
    """Random weights."""
    register()
    torch.manual_seed(options.seed)
    config = MistralConfig(
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 7 // 2,
        num_hidden_layers=2,
        num_attention_heads=options.hidden // 64,
        num_key_value_heads=options.hidden // 128,
        sliding_window=None,
        eos_token_id=EOS,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=TRIE_ATTENTION, dtype=torch.float32).eval()


@dataclass(frozen=True, slots=True)
class Step:
    """K beams `depth` tokens into different prefixes: their nodes, their rows in `generate`, and logits [K, V].

    At depth 0 there is one node, the root, where `generate` has K rows all the same.
    """

    depth: int
    nodes: Tensor
    input_ids: Tensor
    logits: Tensor

    @property
    def beams(self) -> int:
        """K."""
        return len(self.input_ids)


def make_step(catalogue: Catalogue, beams: int, depth: int, options: DecodingOptions) -> Step:
    """Random beams on inner nodes at one depth."""
    rng = np.random.default_rng(options.seed)
    path = catalogue.trie.path
    docs = np.flatnonzero(path[:, depth] >= 0)
    if depth:
        docs = docs[np.unique(path[docs, depth - 1], return_index=True)[1]]
    docs = rng.choice(docs, size=beams, replace=False)
    nodes = torch.from_numpy(path[docs, depth - 1] if depth else np.zeros(1, dtype=np.int64))
    generated = torch.tensor([catalogue.docids[doc][:depth] for doc in docs], dtype=torch.int64)
    prompt = torch.from_numpy(rng.integers(FIRST_TOKEN, options.vocab, size=options.prompt)).expand(beams, -1)
    return Step(depth, nodes, torch.cat([prompt, generated], dim=1), torch.randn(beams, options.vocab))


def constrain(trie: DeviceTrie, nodes: Tensor, logprobs: Tensor) -> Tensor:
    """[C] stoical's constraint alone: the log-probabilities of all children out of [K, V]."""
    return trie.look_up(logprobs, *trie.children(nodes))


def choose(trie: DeviceTrie, step: Step) -> None:
    """A step of `stoical.decoding`: from logits to the next beams and the finished docIDs."""
    beams = _Beams(step.nodes, torch.zeros_like(step.nodes), torch.zeros(len(step.nodes)))
    children = _expand(trie, beams, step.logits[: len(step.nodes)])
    _Finished(step.nodes[:0], beams.total[:0]).merge(_ended(trie, beams, children, step.depth + 1, "mean"), step.beams)
    _live(trie, children, step.beams)


def choose_masked(processor: LogitsProcessor, step: Step) -> None:
    """The same as `generate` does it: the best 2 K of all K x V continuations."""
    scores = processor(step.input_ids, step.logits.log_softmax(dim=-1)) + torch.zeros(step.beams, 1)
    scores.reshape(1, -1).topk(2 * step.beams)


def check_agreement(catalogue: Catalogue, step: Step, processors: Mapping[str, LogitsProcessor]) -> None:
    """All ways must allow the same continuations, for one row where stoical has one node."""
    rows = len(step.nodes)
    wanted = constrain(catalogue.device, step.nodes, step.logits).sort().values
    for name, processor in processors.items():
        scores = processor(step.input_ids, step.logits)[:rows]
        assert torch.equal(scores[scores.isfinite()].sort().values, wanted), f"{name} allows other tokens"


def time_steps(catalogue: Catalogue, steps: list[Step], options: DecodingOptions) -> dict[str, dict[str, Times]]:
    """The three ways' constraint alone, and their whole step; over several steps, the mean of one."""
    processors = catalogue.processors(options.prompt, steps[0].beams)
    for step in steps:
        check_agreement(catalogue, step, processors)
    constraint: dict[str, Callable[[Step], Any]] = {"stoical": lambda s: constrain(catalogue.device, s.nodes, s.logits)}
    whole: dict[str, Callable[[Step], Any]] = {"stoical": lambda s: choose(catalogue.device, s)}
    for name, processor in processors.items():
        constraint[name] = lambda s, p=processor: p(s.input_ids, s.logits)
        whole[name] = lambda s, p=processor: choose_masked(p, s)
    kinds = {"constraint": constraint, "step": whole}
    return {kind: time_often(calls, steps, options.budget) for kind, calls in kinds.items()}


def time_often(calls: Mapping[str, Callable[[Step], Any]], steps: list[Step], budget: float) -> dict[str, Times]:
    """Seconds a call and step, where one timing is of several calls."""

    def several(name: str) -> Callable[[], None]:
        def work() -> None:
            for _ in range(REPEATS[name]):
                for step in steps:
                    calls[name](step)

        return work

    times = interleaved({name: several(name) for name in calls}, budget, rounds=(3, 15), few={})
    return {
        name: {clock: [value / REPEATS[name] / len(steps) for value in values] for clock, values in entry.items()}
        for name, entry in times.items()
    }


def generate(
    model: PreTrainedModel, prompt: list[int], beams: int, longest: int, processor: LogitsProcessor
) -> DynamicCache:
    """`model.generate` with sums of log-probabilities as scores; returns the cache that is left."""
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        logits_processor=[processor],
        max_new_tokens=longest,
        num_beams=beams,
        num_return_sequences=beams,
        **({"length_penalty": 0.0} if beams > 1 else {}),
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
    )
    return output.past_key_values


def decoders(
    model: PreTrainedModel, catalogue: Catalogue, beams: int, prompt_length: int, seed: int
) -> dict[str, Callable[[], Any]]:
    """The three ways to decode one random prompt."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(FIRST_TOKEN, model.config.vocab_size, size=prompt_length).tolist()
    longest = catalogue.trie.path.shape[1]
    calls: dict[str, Callable[[], Any]] = {
        "stoical": lambda: beam_search(model, prompt, catalogue.device, beams, "sum")
    }
    for name, processor in catalogue.processors(prompt_length, beams).items():
        calls[name] = lambda p=processor: generate(model, prompt, beams, longest, p)
    return calls


def measure_cache(model: PreTrainedModel, catalogue: Catalogue, beams: int, options: DecodingOptions) -> dict[str, Any]:
    """Bytes of keys and values, and how often the prompt's columns are among them."""
    calls = decoders(model, catalogue, beams, options.long_prompt, options.seed)
    seen: list[DynamicCache] = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["past_key_values"]), with_kwargs=True
    )
    calls["stoical"]()
    hook.remove()
    caches = {"stoical": seen[-1], "generate": calls["processor"]()}
    facts: dict[str, Any] = {"beams": beams, "prompt": options.long_prompt}
    for name, cache in caches.items():
        facts[f"{name}_mb"] = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) / 1e6
        facts[f"{name}_shape"] = list(cache.layers[0].keys.shape)
    return facts


def measure(name: str, model: PreTrainedModel, options: DecodingOptions) -> dict[str, Any]:
    """Everything about one catalogue."""
    catalogue, facts = measure_catalogue(CATALOGUES[name](options.docs, options.vocab, options.seed))
    result: dict[str, Any] = {"catalogue": name, "trie": facts, "steps": [], "decodes": []}
    counts = [int(beams) for beams in options.beams.split(",")]
    for beams in counts:
        steps = [make_step(catalogue, beams, depth, options) for depth in range(8)]
        for name, depths in DEPTHS.items():
            chosen = [steps[depth] for depth in depths]
            children = sum(len(catalogue.device.children(step.nodes)[0]) for step in chosen) // len(chosen)
            where = {"beams": beams, "depth": name, "children": children}
            result["steps"].append(where | time_steps(catalogue, chosen, options))
        calls = decoders(model, catalogue, beams, options.prompt, options.seed)
        result["decodes"].append({"beams": beams, "decode": interleaved(calls, options.budget, (3, 15), few={})})
    result["cache"] = measure_cache(model, catalogue, max(counts), options)
    return result


def time_row(entry: dict[str, Any], kind: str, clock: Clock) -> dict[str, Any]:
    """Medians of the three ways and their ratios to stoical's."""
    middle = {name: median(times[clock]) for name, times in entry[kind].items()}
    row = {f"{name}, ms": f"{1e3 * value:.3g}" for name, value in middle.items()}
    row |= {f"{name} / stoical": f"{middle[name] / middle['stoical']:.1f}" for name in ("processor", "prefix fn")}
    row["noise"] = f"{max(spread(times[clock]) for times in entry[kind].values()):.0%}"
    return row | {"waiting": f"{waiting(entry[kind].values()):.0%}"}


def tables(results: list[dict[str, Any]], clock: Clock) -> dict[str, str]:
    """One table a kind of measurement."""
    rows: dict[str, list[dict[str, Any]]] = {"constraint": [], "step": [], "decode": [], "tries": [], "cache": []}
    for result in results:
        first = {"catalogue": result["catalogue"]}
        for entry in result["steps"]:
            where = first | {name: entry[name] for name in ("beams", "depth", "children")}
            for kind in ("constraint", "step"):
                rows[kind].append(where | time_row(entry, kind, clock))
        for entry in result["decodes"]:
            rows["decode"].append(first | {"beams": entry["beams"]} | time_row(entry, "decode", clock))
        numbers = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in (result["trie"] | result["cache"]).items()}
        rows["tries"].append(first | {name: numbers[name] for name in result["trie"]})
        ratio = result["cache"]["generate_mb"] / result["cache"]["stoical_mb"]
        rows["cache"].append(first | {name: numbers[name] for name in result["cache"]} | {"ratio": f"{ratio:.1f}"})
    return {kind: markdown_table(entries) for kind, entries in rows.items()}


def run(options: DecodingOptions) -> None:
    """Measure every catalogue and write the results."""
    for name in options.catalogues.split(","):
        if name not in CATALOGUES:
            raise ValueError(f"catalogues: {name!r} is none of {', '.join(CATALOGUES)}")
    torch.set_num_threads(options.threads)
    model = make_model(options)
    with torch.no_grad():
        results = [measure(name, model, options) for name in options.catalogues.split(",")]
    write_results(options.out, COMMAND, sys.argv[1:], asdict(options), results, tables(results, options.clock))


def main() -> int:
    """Entry point of `python -m benchmarks.decoding`."""
    command = Command(__doc__ or "", lambda given: run(given.options), DecodingOptions, bare=True)
    return execute(command, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
