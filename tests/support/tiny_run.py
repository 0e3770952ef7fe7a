"""A run of three training steps on disk, and what starts from its checkpoint: adapters over it, and plain scores."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState
from omegaconf import OmegaConf
from peft import AutoPeftModelForCausalLM, PeftConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from stoical.commands import train
from stoical.data.rows import Doc
from stoical.encoding.prompts import shuffled
from stoical.encoding.queries import QueryEncoder
from stoical.encoding.tokenization import encode_prompt
from stoical.runs.find import load_checkpoint
from tests.support.small_data import TINY, write_dataset

DOCS = ["dokilu", "ba", "bado", "kilu", "no", "nora"]


def train_tiny(directory: Path, *settings: str) -> Path:
    """Write `data` and `run` into `directory`; the run, whose checkpoint-3 holds a model of one layer."""
    AcceleratorState._reset_state(reset_partial_state=True)  # another test may have left its process's state
    GradientState._reset_state()
    write_dataset(directory / "data")
    own = [f"data.path={directory / 'data'}", f"output={directory / 'run'}", "training.save_steps=3"]
    words = {word.partition("=")[0]: word for word in ["recipe=wordnet_alpha2,small", *TINY, *own, *settings]}
    train.main(list(words.values()))
    return directory / "run"


def save_adapter(trained: Path, run: Path, config: PeftConfig) -> Path:
    """A run whose checkpoint-7 holds an adapter alone, of random weights, with the trained model as its base."""
    checkpoint = run / "checkpoint-7"
    recipe, _ = load_checkpoint(trained / "checkpoint-3", {})
    base = AutoModelForCausalLM.from_pretrained(trained / "checkpoint-3")
    torch.manual_seed(1)
    get_peft_model(base, config).save_pretrained(checkpoint)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(trained / "checkpoint-3" / name, checkpoint / name)
    (checkpoint / "recipe.yaml").write_text(OmegaConf.to_yaml(recipe))
    return run


def plain_model(run: Path) -> nn.Module:
    """The weights of a run's only checkpoint as transformers or peft loads them, with transformers' own attention."""
    (checkpoint,) = run.glob("checkpoint-*")
    auto = AutoModelForCausalLM if (checkpoint / "config.json").is_file() else AutoPeftModelForCausalLM
    model: nn.Module = auto.from_pretrained(checkpoint, attn_implementation="eager").eval()
    return model


def one_forward_each(model: nn.Module, encoder: QueryEncoder, query: str, docs: Sequence[str]) -> dict[str, float]:
    """What a `Ranker` promises: the mean log-probability of each docID's tokens, EOS included, the softmax by hand."""
    tokenizer, scores = encoder.tokenizer, {}
    in_prompt = shuffled([Doc(name) for name in sorted(docs)], encoder.seed, 0, query)
    prompt = encode_prompt(tokenizer, encoder.template.render(query, in_prompt))
    for name in docs:
        ids = [*tokenizer.encode(name, add_special_tokens=False), tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0].double()
        rows = logits[-len(ids) - 1 : -1]
        found = [float(row[token]) - math.log(float(row.exp().sum())) for row, token in zip(rows, ids, strict=True)]
        scores[name] = sum(found) / len(found)
    return scores
