"""What a run would do, shown and not done: prompts with their ids, the trie with its weights, the step's memory."""

from __future__ import annotations

from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from stoical.build.encoder import build_encoder, build_tokenizer
from stoical.build.model import build_config, meta_model
from stoical.config.recipe import Recipe
from stoical.data.dataset import load_split
from stoical.data.files import load_manifest
from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.tokenization import MISTRAL_V3_MODELS, pad_id
from stoical.objectives.build import build_objectives
from stoical.objectives.settings import LossSettings
from stoical.runs.processes import join_processes
from stoical.training.arguments import micro_batches
from stoical.training.build import check_lists, training_collator, training_evaluator, training_rows, training_split
from stoical.training.memory_fit import largest_batch, run_memory, shortage

SHOWN_IDS = 60


def show(recipe: Recipe) -> str:
    """Two rendered queries, and the memory estimate of the first micro-batch, as text.

    Of Mistral-7B-v0.3 all that this needs is known: for it no network is asked.
    """
    micro_size, accumulated = micro_batches(recipe, join_processes(recipe))
    train = training_split(recipe)
    check_lists(recipe, train)
    test, manifest = load_split(recipe.data.path, "test"), load_manifest(recipe.data.path)
    tokenizer = build_tokenizer(recipe, train, recipe.tokenizer.name in MISTRAL_V3_MODELS)
    encoder = build_encoder(recipe, tokenizer)
    dataset = training_rows(recipe, train, encoder)
    training_evaluator(recipe, test, encoder)
    collate = TrieTargetCollator(recipe.loss, pad_id(tokenizer), prune=False)
    parts = [
        f"{train.name}: {len(train)} queries, {test.name}: {len(test)}, manifest of {manifest.get('name', 'no name')}; "
        f"{recipe.training['max_steps']} steps of {recipe.global_batch_size} queries = "
        f"{PartialState().num_processes} processes x {micro_size} x {accumulated} accumulated{_budget_note(recipe)}",
    ]
    for index in range(min(2, len(train))):
        query = dataset[index]
        words = [tokenizer.decode([token]) for token in query.prompt_ids]
        ids = " ".join(
            f"{token}:{word!r}" for token, word in list(zip(query.prompt_ids, words, strict=True))[:SHOWN_IDS]
        )
        batch = collate([query])["batch"]
        parts += [
            f"\n--- query {query.query_id}: {len(query.prompt_ids)} prompt tokens, {len(query.docids)} docIDs, "
            f"{len(batch.node_token) - 1} trie nodes, {query.num_dropped} documents dropped by truncation",
            str(tokenizer.decode(query.prompt_ids)),
            f"\nids: {ids}{' ...' if len(query.prompt_ids) > SHOWN_IDS else ''}",
            f"\ntrie (token id, token{_weights_note(recipe.loss)}:",
            draw_trie(
                batch,
                [tokenizer.decode([max(token, 0)]) for token in batch.node_token.tolist()],
                weighted=not recipe.loss.unweighted,
            ),
        ]
    objectives = build_objectives(recipe.loss, recipe.mitigations, recipe.eval.score)
    packed = largest_batch(dataset, micro_size, training_collator(recipe, objectives, tokenizer))
    return "\n".join([*parts, "", _memory(recipe, packed, tokenizer)])


def _budget_note(recipe: Recipe) -> str:
    most = recipe.max_tokens_per_micro_batch
    return "" if most is None else f", cut into micro-batches of at most {most:,} tokens"


def draw_trie(batch: PackedBatch, words: list[str], weighted: bool = True) -> str:
    """The trie of a one-query batch, one node a line, children indented under their parent; weighted: with weights."""
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(batch.node_parent.tolist()):
        if node:
            children.setdefault(parent, []).append(node)
    ends = {
        path[path >= 0][-1].item(): "negative" if negative else f"rank {rank}"
        for path, rank, negative in zip(batch.doc_path, batch.doc_rank.tolist(), batch.doc_negative, strict=True)
    }
    lines: list[str] = []
    stack = children.get(0, [])[::-1]
    while stack:
        node = stack.pop()
        end = f"  <- {ends[node]}" if node in ends else ""
        indent = "  " * int(batch.node_depth[node])
        weight = f" {float(batch.node_weights[node]):.4g}" * weighted
        lines.append(f"{indent}{int(batch.node_token[node])} {words[node]!r}{weight}{end}")
        stack += children.get(node, [])[::-1]
    return "\n".join(lines)


def _weights_note(loss: LossSettings) -> str:
    if loss.unweighted:
        return f"; {loss.unweighted})"
    reach = ", before the model's own probability of reaching the node" * (loss.visits == "reach")
    return f", weight in the loss){reach}"


def _memory(recipe: Recipe, batch: PackedBatch, tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        config = build_config(recipe, tokenizer, recipe.model.name in MISTRAL_V3_MODELS)
    except ValueError as error:
        return f"memory: not estimated, because the model's config could not be used. {error}"
    run = run_memory(recipe, meta_model(recipe, config), config, batch)
    return shortage(run, recipe.layout) or str(run)
