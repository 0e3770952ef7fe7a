"""Soft prompts for ranking: only the prompt trains, through the packed trie, and peft alone reads the checkpoint."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from stoical.commands import evaluate, export, train
from stoical.data.dataset import load_split
from stoical.encoding.packing import TrieTargetCollator
from stoical.models.adapters import add_soft_prompt
from stoical.models.forward import node_logprobs
from stoical.ranker import Ranker
from stoical.training.build import build_trainer
from stoical.trie.node_weights import TargetSettings
from tests.support.launching import launch
from tests.support.random_queries import random_query
from tests.support.small_data import TINY
from tests.support.small_evaluation import token_logprobs
from tests.support.tiny_model import tiny_model
from tests.support.tiny_run import DOCS, one_forward_each
from tests.support.training import trained_run

SECTION = {"num_virtual_tokens": 3, "prompt_tuning_init": "SAMPLE_VOCAB"}
STEPS = ["training.max_steps=8", "training.save_steps=4", "training.eval_steps=8", "training.learning_rate=0.05"]


def words(base: Path, output: Path, *extra: str) -> list[str]:
    """A run of a prompt of 3 vectors over the model of another run, in float32 so that equalities can be tight."""
    own = [
        "recipe=wordnet_alpha2,small,soft_prompt", f"data.path={base.parent / 'data'}", f"output={output}",
        f"model.name={base / 'checkpoint-3'}", f"tokenizer.name={base / 'checkpoint-3'}", "model.from_scratch=false",
        "tokenizer.vocab_size=null", "model.dtype=float32", "soft_prompt.num_virtual_tokens=3",
    ]  # fmt: skip
    return [*{word.partition("=")[0]: word for word in [*TINY, *own, *extra]}.values()]


def recipe_of(base: Path, output: Path, *extra: str) -> Any:
    from stoical.config.loading import load_recipe

    return load_recipe(*words(base, output, *extra))


def prompt_of(model: nn.Module) -> Tensor:
    (found,) = [value for name, value in model.state_dict().items() if "prompt_encoder" in name]
    return found.clone()


@pytest.fixture(scope="module")
def done(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, dict[str, Tensor], Tensor]:
    """A run of 8 steps, saved at 4 and 8; its trainer, and the model below and the prompt as they began."""
    run = tmp_path_factory.mktemp("soft") / "run"
    started = build_trainer(recipe_of(trained, run, *STEPS)).model
    before = {name: value.clone() for name, value in started.state_dict().items() if "prompt_encoder" not in name}
    return run, trained_run(recipe_of(trained, run, *STEPS)), before, prompt_of(started)


def test_the_prompt_trains_and_the_model_stays_bit_for_bit(done: tuple[Path, Any, dict[str, Tensor], Tensor]) -> None:
    _, trainer, before, start = done
    after = trainer.model.state_dict()
    assert len(before) > 5
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert (prompt_of(trainer.model) != start).all()
    assert [tuple(p.shape) for p in trainer.model.parameters() if p.requires_grad] == [(3, 16)]
    assert prompt_of(trainer.model).dtype == torch.float32


def test_how_much_trains_and_the_memory_are_said(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        model = build_trainer(recipe_of(trained, tmp_path / "run")).model
    total = sum(p.numel() for p in model.parameters())
    assert [m for m in caplog.messages if m.startswith(f"soft prompt: 48 of {total:,} parameters train")] != []
    assert train.main(words(trained, tmp_path / "run", "dry_run=true")) == 0
    assert "48 of them trained" in capsys.readouterr().out


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-5), (torch.float32, 1e-4)])
def test_value_and_gradient_are_those_of_plain_forwards(dtype: torch.dtype, close: float) -> None:
    """The packed trie against peft's own forward of one row a docID, prompts of different lengths.

    Log-probabilities are read off in float32, whatever the model's precision.
    """
    model = add_soft_prompt(tiny_model(), SECTION, "", seed=0).to(dtype).train()
    queries = [random_query(seed, docs=4, prompt=5 + 7 * seed) for seed in range(3)]
    batch = TrieTargetCollator(TargetSettings(item="fractional", alpha=2.0), 0, prune=False)(queries)["batch"]
    (prompt,) = [p for p in model.parameters() if p.requires_grad]
    found = node_logprobs(model, batch, "cache").logprobs
    (found.to(dtype) * batch.node_weights.to(dtype)).sum().backward()
    packed, prompt.grad = prompt.grad, None
    total = torch.zeros((), dtype=dtype)
    for query in queries:
        for place, ids in enumerate(query.docid_ids):
            logits = model(input_ids=torch.tensor([[*query.prompt_ids, *ids]]), use_cache=False).logits
            own = logits[0, 3 + len(query.prompt_ids) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(ids)[:, None])
            total = total + float(query.ranks[place]) ** -2.0 * own.sum()
    total.backward()
    assert packed is not None and prompt.grad is not None and prompt.grad.norm() > 1e-3
    assert float((found.double() * batch.node_weights.double()).sum()) == pytest.approx(float(total), rel=1e-5)
    torch.testing.assert_close(packed, prompt.grad, atol=close, rtol=close)


def test_a_checkpoint_holds_the_prompt_alone_and_plain_peft_loads_it(
    done: tuple[Path, Any, dict[str, Tensor], Tensor], trained: Path
) -> None:
    run, trainer, _, _ = done
    checkpoint = run / "checkpoint-8"
    names = {path.name for path in checkpoint.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "recipe.yaml", "tokenizer.json"} <= names
    assert not names & {"model.safetensors", "config.json"}
    saved = load_file(checkpoint / "adapter_model.safetensors")
    assert {name: tuple(value.shape) for name, value in saved.items()} == {"prompt_embeddings": (3, 16)}
    assert torch.equal(saved["prompt_embeddings"], prompt_of(trainer.model))
    base = AutoModelForCausalLM.from_pretrained(trained / "checkpoint-3")
    plain = PeftModel.from_pretrained(base, str(checkpoint)).eval()
    assert AutoPeftModelForCausalLM.from_pretrained(checkpoint).active_peft_config.num_virtual_tokens == 3
    ranker = Ranker.from_pretrained(run)
    found = ranker.rank("query ba", DOCS)
    expected = one_forward_each(plain, ranker.encoder, "query ba", DOCS)
    assert {each.docid: each.score for each in found} == pytest.approx(expected, abs=1e-5)


def test_evaluate_finds_what_the_run_saw_and_plain_scores(
    done: tuple[Path, Any, dict[str, Tensor], Tensor], trained: Path
) -> None:
    run, trainer, _, _ = done
    assert evaluate.main([f"checkpoint={run}"]) == 0
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    seen = [log for log in trainer.state.log_history if "eval_ndcg" in log][-1]
    names = [name for name in seen if name.startswith("eval_") and name != "eval_num_queries"]
    assert len(names) > 5
    for name in names:
        assert metrics[name.removeprefix("eval_")] == seen[name], name
    base = AutoModelForCausalLM.from_pretrained(trained / "checkpoint-3")
    plain = PeftModel.from_pretrained(base, str(run / "checkpoint-8")).eval()
    encoder = Ranker.from_pretrained(run).encoder
    rows = [json.loads(line) for line in (run / "eval" / "per_query.jsonl").read_text().splitlines()]
    for row, asked in zip(rows, load_split(str(trained.parent / "data"), "test"), strict=True):
        query = encoder.encode(asked, negatives=True)
        expected = [float(np.mean(token_logprobs(plain, list(query.prompt_ids), list(ids)))) for ids in query.docid_ids]
        np.testing.assert_allclose(row["scores"], expected, atol=1e-5)


def test_resume_equals_going_through(
    done: tuple[Path, Any, dict[str, Tensor], Tensor], trained: Path, tmp_path: Path
) -> None:
    run, through, _, _ = done
    shutil.copytree(run / "checkpoint-4", tmp_path / "run" / "checkpoint-4")
    resumed = trained_run(recipe_of(trained, tmp_path / "run", *STEPS, "resume=auto"))
    assert resumed.state.global_step == 8
    assert torch.equal(prompt_of(resumed.model), prompt_of(through.model))


def test_a_saved_prompt_is_trained_on_before_its_own_model_only(
    done: tuple[Path, Any, dict[str, Tensor], Tensor], trained: Path, tmp_path: Path
) -> None:
    run, trainer, _, _ = done
    adapter = f"model.adapter={run / 'checkpoint-8'}"
    again = build_trainer(recipe_of(trained, tmp_path / "run", adapter)).model
    assert torch.equal(prompt_of(again), prompt_of(trainer.model))
    with pytest.raises(ValueError, match=r"^soft_prompt.num_virtual_tokens=4 conflicts with model.adapter=.* with 3$"):
        build_trainer(recipe_of(trained, tmp_path / "run", adapter, "soft_prompt.num_virtual_tokens=4"))
    other = tmp_path / "other"
    shutil.copytree(trained / "checkpoint-3", other)
    with pytest.raises(ValueError, match=r"^model.adapter=.*-8 is a soft prompt of the model .*, not of model.name="):
        build_trainer(recipe_of(trained, tmp_path / "run", adapter, f"model.name={other}"))


def test_a_text_starts_the_prompt(trained: Path, tmp_path: Path) -> None:
    """As peft does it: the text's embeddings, over and over up to the number of vectors."""
    text = ["soft_prompt.prompt_tuning_init=TEXT", "soft_prompt.prompt_tuning_init_text=ba"]
    model = build_trainer(recipe_of(trained, tmp_path / "run", *text)).model
    table = {tuple(row) for row in model.get_input_embeddings().weight.tolist()}
    assert all(tuple(row) in table for row in prompt_of(model).tolist())


def test_the_card_says_what_it_is(done: tuple[Path, Any, dict[str, Tensor], Tensor]) -> None:
    card = (done[0] / "checkpoint-8" / "README.md").read_text()
    assert "A soft prompt of 3 vectors, put before every prompt of a frozen model, that ranks" in card
    assert "library_name: peft" in card


def test_export_says_why_there_is_nothing_to_merge(
    done: tuple[Path, Any, dict[str, Tensor], Tensor], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="a soft prompt is not part of any weight, so that it cannot be merged"):
        export.main([f"checkpoint={done[0]}", f"output={tmp_path / 'whole'}"])
    assert not (tmp_path / "whole").exists()


def mitigation_names() -> Sequence[str]:
    return ("scheduled_sampling", "expected_reward", "professor_forcing", "margin", "distillation")


@pytest.mark.parametrize("overlay", mitigation_names())
def test_mitigations_train_a_prompt(overlay: str, trained: Path, tmp_path: Path) -> None:
    negatives = ["data.num_negatives=2"] if overlay == "margin" else []
    own = [f"recipe=wordnet_beta2,small,soft_prompt,{overlay}", "training.max_steps=2", *negatives]
    trainer = build_trainer(recipe_of(trained, tmp_path / "run", *own))
    start = prompt_of(trainer.model)
    trainer.train()
    assert not torch.equal(prompt_of(trainer.model), start)


@pytest.mark.slow
def test_two_processes_train_a_prompt_as_one(done: tuple[Path, Any, dict[str, Tensor], Tensor], trained: Path) -> None:
    run, trainer, _, _ = done
    output = run.parent / "two"
    launch("train.py", *words(trained, output, *STEPS, "training.per_device_train_batch_size=4"))
    saved = load_file(output / "checkpoint-8" / "adapter_model.safetensors")["prompt_embeddings"]
    torch.testing.assert_close(saved, prompt_of(trainer.model), atol=1e-5, rtol=1e-5)


def test_weights_that_a_launcher_splits_are_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoical.training.build.sharding", lambda training: "FSDP")
    with pytest.raises(ValueError, match=r"^soft_prompt .* weights that FSDP splits; use DDP, or one process$"):
        build_trainer(recipe_of(trained, tmp_path / "run"))
