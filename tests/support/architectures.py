"""Tiny random models of many architectures, and their log-probabilities on a trie against plain forward passes.

`python -m tests.support.architectures` prints the table that docs/models.md has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from stoical.decoding.scores import doc_scores
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.tokenized import TokenizedQuery
from stoical.models.checks import check_model
from stoical.models.forward import node_logprobs
from stoical.trie.node_weights import TargetSettings

MAX_LENGTH = 40  # tokens of the longest sequence
LAYOUTS = ("sequence", "cache")
SHAPE = {  # what a config does not know of it is left out
    **{"vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4}
MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}


@dataclass(frozen=True)
class Architecture:
    """A model type, its attention, what its config needs beside SHAPE, and why it is refused, if it is."""

    kind: str
    attention: str = "trie_sdpa"
    config: dict[str, Any] | None = None
    refused: str | None = None

    def build(self) -> PreTrainedModel:
        """A random model, whose outputs depend on every weight."""
        base = AutoConfig.for_model(self.kind)
        known = set(base.to_dict()) | set(base.attribute_map)
        shape = {key: value for key, value in SHAPE.items() if key in known} | (self.config or {})
        torch.manual_seed(0)
        config = AutoConfig.for_model(self.kind, **shape)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=self.attention)
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.15)
        return model.eval()


ROPE = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
_MLA = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
ARCHITECTURES = [
    *map(Architecture, ("mistral", "llama", "qwen2", "qwen3", "gemma", "gemma3_text", "phi", "phi3", "olmo", "olmo2")),
    *map(
        Architecture, ("granite", "cohere", "cohere2", "stablelm", "starcoder2", "gpt_neox", "glm", "glm4", "smollm3")
    ),
    *map(Architecture, ("nemotron", "helium", "exaone4", "ernie4_5", "persimmon", "biogpt", "seed_oss", "arcee")),
    Architecture("apertus"),
    Architecture("gpt2", config=GPT),
    Architecture("gpt_bigcode", config=GPT),
    Architecture("ctrl", config={**GPT, "dff": 48}),
    Architecture("opt", config={"word_embed_proj_dim": 32, "ffn_dim": 48}),
    Architecture("bert", config={"is_decoder": True}),
    Architecture("mixtral", config={"num_local_experts": 4, "num_experts_per_tok": 2}),
    Architecture("qwen2_moe", config={**MOE, "num_experts": 4, "shared_expert_intermediate_size": 16}),
    Architecture("qwen3_moe", config={**MOE, "num_experts": 4}),
    Architecture("olmoe", config={"num_experts": 4, "num_experts_per_tok": 2}),
    Architecture("granitemoe", config={"num_local_experts": 4, "num_experts_per_tok": 2}),
    Architecture(
        "deepseek_v3",
        config={
            **{**MOE, **_MLA, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
            **{"num_key_value_heads": 4, "head_dim": 4},
        },
    ),
    Architecture("falcon", "sdpa", {"num_kv_heads": 2}),
    Architecture("doge", "sdpa"),
    Architecture("gemma2", "eager"),
    Architecture("gpt_oss", "eager", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    Architecture("gptj", "eager", {**GPT, "rotary_dim": 4}),
    Architecture("codegen", "eager", {**GPT, "rotary_dim": 4}),
    Architecture("xglm", "eager", {"d_model": 32, "attention_heads": 4, "num_layers": 2, "ffn_dim": 48}),
    Architecture("bloom", "eager", {"n_layer": 2, "n_head": 4}, "position"),
    Architecture("mpt", "eager", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}, "position"),
    Architecture("mamba", "eager", refused="recurrent"),
    Architecture("minimax", refused="recurrent"),
    Architecture("big_bird", "eager", {"is_decoder": True}, "blocks of places"),
    Architecture("minimax_m3_vl_text", config={**MOE, "num_local_experts": 4}, refused="blocks of places"),
    Architecture("gpt2", config={**GPT, "n_positions": 16}, refused="16 positions"),
    Architecture("gptj", "eager", {**GPT, "rotary_dim": 4, "n_positions": 16}, "16 positions"),
    Architecture("codegen", "eager", {**GPT, "rotary_dim": 4, "n_positions": 16}, "16 positions"),
    Architecture("ctrl", config={**GPT, "dff": 48, "n_positions": 16}, refused="16 positions"),
    Architecture("doge", "sdpa", {"keep_window_size": 16}, "dynamic window of 16"),
    Architecture("mistral", config={"sliding_window": 16}, refused="sliding window of 16"),
    Architecture("gemma3_text", config={"sliding_window": 16}, refused="sliding window of 16"),
    Architecture("llama4_text", config={"num_local_experts": 4, "attention_chunk_size": 16}, refused="16 tokens"),
    Architecture("llama", config={"rope_parameters": ROPE, "max_position_embeddings": 16}, refused="dynamic"),
]


def queries() -> list[TokenizedQuery]:
    """Three of different lengths, whose docIDs share beginnings."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for length, docs in ((5, 4), (17, 5), (30, 3)):
        drawn = torch.randint(3, 7, (4 * docs, 3), generator=generator).tolist()
        docids = list(dict.fromkeys((*ids[: 1 + at % 3], 2) for at, ids in enumerate(drawn)))[:docs]
        prompt = [1, *torch.randint(10, 90, (length,), generator=generator).tolist()]
        lists, names = [list(ids) for ids in docids], [str(ids) for ids in docids]
        ranks = list(range(1, len(docids) + 1))
        found.append(TokenizedQuery(f"of {length}", prompt, names, lists, [len(ids) for ids in docids], ranks))
    return found


@torch.no_grad()
def plain_scores(model: PreTrainedModel) -> torch.Tensor:
    """log p(docID) by a forward pass of its own, without padding or masks, in the order of the queries."""
    scores = []
    for query in queries():
        for ids in query.docid_ids:
            logits = model(input_ids=torch.tensor([[*query.prompt_ids, *ids]])).logits[0].float()
            steps = logits.log_softmax(-1)[len(query.prompt_ids) - 1 : -1]
            scores.append(steps.gather(1, torch.tensor(ids)[:, None]).sum())
    return torch.stack(scores)


@torch.no_grad()
def differences(architecture: Architecture) -> dict[str, float]:
    """Layout to the largest difference of a docID's log-probability from its plain forward pass, in nats.

    Raises `ValueError` where the model is refused.
    """
    model = architecture.build()
    check_model(model, MAX_LENGTH)
    batch = TrieTargetCollator(TargetSettings(), 0, False)(queries())["batch"]
    plain = plain_scores(model)
    scores = {layout: doc_scores(batch, node_logprobs(model, batch, layout).logprobs, "sum") for layout in LAYOUTS}
    return {layout: float((found - plain).abs().max()) for layout, found in scores.items()}


def table() -> str:
    """A line an architecture, in Markdown."""
    lines = ["| model type | attention | sequence | cache |", "|---|---|--:|--:|"]
    for each in ARCHITECTURES:
        try:
            cells = [f"{value:.1e}" for value in differences(each).values()]
        except ValueError as error:
            cells = [f"refused: {error}", ""]
        lines.append(f"| {each.kind} | {each.attention} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
