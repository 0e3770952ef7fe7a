"""DPO by TRL scores our token ids as we do, starts at its reference, and leaves an ordinary run."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from omegaconf import OmegaConf
from peft import LoraConfig, PeftModel, PromptTuningConfig, TaskType
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from stoical.build.encoder import build_encoder, build_tokenizer
from stoical.commands import dpo, evaluate, train
from stoical.data.dataset import load_split
from stoical.decoding.scores import doc_scores
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.queries import EncodedDataset
from stoical.encoding.tokenization import pad_id
from stoical.models.forward import node_logprobs
from stoical.preferences.dpo import METHOD
from stoical.preferences.run import kept_pairs, make_pairs
from stoical.preferences.settings import DPO_TRAINING, DPOSettings, PairSettings
from stoical.preferences.start import Start, load_start
from stoical.ranker import Ranker
from stoical.trie.node_weights import TargetSettings
from tests.support.small_data import TINY
from tests.support.tiny_run import DOCS, save_adapter, train_tiny

pytest.importorskip("trl", reason="needs pip install 'stoical[preferences]'")
STEPS = ["training.max_steps=3", "training.learning_rate=1e-3", "training.logging_steps=1", "training.warmup_steps=0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("dpo"))


@pytest.fixture(scope="module")
def adapted(trained: Path) -> Path:
    """A LoRA checkpoint whose adapter changes what the model below it says."""
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=2, target_modules="all-linear", init_lora_weights=False)
    return save_adapter(trained, trained.parent / "adapted", config)


@pytest.fixture(params=["trained", "adapted"])
def start(request: pytest.FixtureRequest) -> Path:
    run: Path = request.getfixturevalue(request.param)
    return run


def build(run: Path, output: Path, source: Any = "ranking", **settings: Any) -> tuple[Any, datasets.Dataset]:
    """The trainer of a run, and its pairs."""
    from stoical.preferences.trainer import build_preference_trainer

    begin, recipe = load_start(str(run), str(output), {}, DPO_TRAINING)
    pairs, record = make_pairs(recipe, begin, PairSettings(source, **settings))
    return build_preference_trainer(recipe, begin, 0.25, pairs, METHOD, record), pairs


def masked(batch: dict[str, Tensor], mask: str) -> list[list[int]]:
    """The ids of every row that `mask` picks."""
    return [ids[picked.bool()].tolist() for ids, picked in zip(batch["input_ids"], batch[mask], strict=True)]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    model.zero_grad()
    return found


def sequence_logprob(model: nn.Module, prompt: list[int], output: list[int]) -> Tensor:
    """log p of an output, one plain forward."""
    logprobs = model(input_ids=torch.tensor([prompt + output])).logits[0].log_softmax(-1)
    return logprobs[range(len(prompt) - 1, len(prompt) + len(output) - 1), output].sum()


def test_adapters_of_embeddings_are_in_the_reference(trained: Path, tmp_path: Path) -> None:
    layers = ["q_proj", "embed_tokens"]
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=2, target_modules=layers, init_lora_weights=False)
    trainer, _ = build(save_adapter(trained, tmp_path / "adapted", config), tmp_path / "run")
    tensors = dict(trainer.model.named_parameters())
    copied = {name for name in tensors if "default" in name.split(".")}
    assert any("lora_embedding_A" in name for name in copied)
    assert all(torch.equal(tensors[name], tensors[name.replace("default", "ref")]) for name in copied)
    assert not any(tensors[name.replace("default", "ref")].requires_grad for name in copied)


UNFIT = {  # adapters that TRL cannot score, or peft cannot have twice
    "tokens": ({"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]}, r"cannot be trained by TRL \(.*bias"),
    "tied": (
        {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
        r"cannot be trained by TRL \(.*ref.*\); merge adapters first, with stoical export",
    ),
    "replicated": (
        {"target_modules": ["q_proj"], "layer_replication": [[0, 1], [0, 1]]},
        r"TRL's log-probabilities differ from the model's by .* nats; merge adapters first",
    ),
    "biases": ({"target_modules": ["q_proj"], "bias": "all"}, r"trains biases, .* without a reference; merge adapters"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_adapters_that_trl_scores_otherwise_are_refused(case: str, trained: Path, tmp_path: Path) -> None:
    settings, said = UNFIT[case]
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=2, init_lora_weights=False, **settings)
    with pytest.raises(ValueError, match=said):
        build(save_adapter(trained, tmp_path / "adapted", config), tmp_path / "run")


def test_whole_weights_that_trl_cannot_train_are_not_told_to_merge_adapters(tmp_path: Path) -> None:
    """Such as Llama 4's, whose inner model TRL does not find."""
    from stoical.preferences.trainer import _as_trl_can

    said = r"cannot be trained by TRL \(it has no last_hidden_state\)$"
    with pytest.raises(ValueError, match=said), _as_trl_can(Start(tmp_path, adapter=False)):
        raise AttributeError("it has no last_hidden_state")


def test_experts_are_trained_by_dpo_alone(tmp_path: Path) -> None:
    """TRL would add the router's own loss, which no part of a run says."""
    trainer, _ = build(train_tiny(tmp_path, "model.name=mixtral", "model.config.num_local_experts=3"), tmp_path / "dpo")
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(math.log(2), abs=1e-6)


def test_trl_sees_our_ids_and_gives_our_log_probabilities(start: Path, tmp_path: Path) -> None:
    trainer, pairs = build(start, tmp_path / "run")
    encoder, tokenizer = trainer.evaluator.dataset.encoder, trainer.processing_class
    rows_of = EncodedDataset(load_split(start.parent / "data", "train"), encoder)
    queries = {query.query_id: query for query in (rows_of[index] for index in range(len(rows_of)))}
    collator = TrieTargetCollator(TargetSettings(), pad_id(tokenizer), prune=False)
    assert len(pairs) == sum(len(query.docids) - 1 for query in queries.values())
    seen = 0
    for batch in trainer.get_train_dataloader():
        half = len(batch["input_ids"]) // 2
        with torch.no_grad():
            labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            found = trainer.model(**inputs, labels=labels, fused_lm_head=True).log_probs.sum(1)
        rows, outputs = masked(batch, "attention_mask"), masked(batch, "completion_mask")
        for place in range(half):
            query = next(q for q in queries.values() if rows[place] == [*q.prompt_ids, *q.docid_ids[0]])
            assert rows[place].count(tokenizer.bos_token_id) == 1
            assert outputs[place] == query.docid_ids[0]
            assert outputs[place][-1] == tokenizer.eos_token_id
            other = query.docid_ids.index(outputs[half + place])
            assert rows[half + place] == [*query.prompt_ids, *query.docid_ids[other]]
            packed = collator([query])["batch"]
            with torch.no_grad():
                sums = doc_scores(packed, node_logprobs(trainer.model, packed).logprobs, "sum")
            assert found[place].item() == pytest.approx(sums[0].item(), abs=1e-5)
            assert found[half + place].item() == pytest.approx(sums[other].item(), abs=1e-5)
            seen += 1
    assert seen == len(pairs)


def test_the_loss_starts_at_log_2_with_the_gradient_of_the_paper(start: Path, tmp_path: Path) -> None:
    """-beta sigma(0) (grad log p(chosen) - grad log p(rejected)); for an adapter, of the adapter's weights alone."""
    trainer, _ = build(start, tmp_path / "run", num_queries=12)
    batch = next(iter(trainer.get_train_dataloader()))
    half = len(batch["input_ids"]) // 2
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    loss.backward()
    found = gradients(trainer.model)
    for row, (ids, seen, mask) in enumerate(
        zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True)
    ):
        length = int(seen.sum() - mask.sum())
        logprob = sequence_logprob(trainer.model, ids[:length].tolist(), ids[length : int(seen.sum())].tolist())
        (-0.25 * 0.5 * (1 if row < half else -1) * logprob / half).backward()
    wanted = gradients(trainer.model)
    assert found.keys() == wanted.keys() == {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert all(torch.allclose(found[name], wanted[name], atol=1e-6, rtol=1e-4) for name in found)
    assert isinstance(trainer.model, PeftModel) == all("lora_" in name and ".default." in name for name in found)


def test_the_reference_of_an_adapter_is_that_adapter_and_not_the_bare_model(adapted: Path, tmp_path: Path) -> None:
    trainer, pairs = build(adapted, tmp_path / "run")
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        policy = [sequence_logprob(trainer.model, row["prompt_ids"], row["chosen_ids"]) for row in pairs]
        with trainer.model.disable_adapter():
            bare = [sequence_logprob(trainer.model, row["prompt_ids"], row["chosen_ids"]) for row in pairs]
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)
        reference = trainer.compute_ref_log_probs(trainer.model, batch)[0]
        trainer.compute_loss(trainer.model, batch)
    for ids, value in zip(masked(batch, "attention_mask"), reference.tolist(), strict=False):
        place = next(i for i, row in enumerate(pairs) if row["prompt_ids"] + row["chosen_ids"] == ids)
        assert value == pytest.approx(policy[place].item(), abs=1e-5)
        assert abs(value - bare[place].item()) > 1e-3
    assert trainer._metrics["train"]["rewards/chosen"][-1] != 0


@pytest.fixture(scope="module", params=["trained", "adapted"])
def finished(request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """(start, the DPO run of three steps on its beam errors)."""
    start: Path = request.getfixturevalue(request.param)
    output = start.parent / f"dpo_{request.param}"
    dpo.main([f"checkpoint={start}", f"output={output}", "dpo.beta=0.5", "training.save_steps=2", *STEPS])
    return start, output


def test_a_run_ends_as_an_ordinary_one(finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    start, run = finished
    evaluate.main([f"checkpoint={run}"])
    assert "nDCG" in capsys.readouterr().out
    assert json.loads((run / "eval" / "metrics.json").read_text())["num_queries"] == 6
    ranked = Ranker.from_pretrained(run).rank("query ba", DOCS)
    assert sorted(row.docid for row in ranked) == sorted(DOCS)
    assert ranked != Ranker.from_pretrained(start).rank("query ba", DOCS)
    manifest = json.loads((run / "manifest.json").read_text())["preferences"]
    assert manifest["settings"]["beta"] == 0.5
    assert manifest["settings"]["source"] == "beam"
    assert manifest["counts"]["pairs"] > 0
    assert "direct preference optimization" in (run / "README.md").read_text()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3]
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    evaluations = [row for row in rows if "eval_ndcg" in row]
    assert evaluations == [row for row in evaluations if "rewards/chosen" not in row]


def test_a_checkpoint_holds_the_policy_alone(finished: tuple[Path, Path]) -> None:
    start, run = finished
    names = sorted(path.name for path in (run / "checkpoint-3").iterdir())
    assert "ref" not in names
    (weights,) = (run / "checkpoint-3").glob("*.safetensors")
    before = load_file(next(start.glob("checkpoint-*")) / weights.name)
    after = load_file(weights)
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_a_resumed_run_ends_with_the_same_weights(finished: tuple[Path, Path], tmp_path: Path) -> None:
    start, run = finished
    again = tmp_path / "run"
    shutil.copytree(run, again, ignore=lambda _, names: {"checkpoint-3", "eval"} & set(names))
    words = [f"checkpoint={start}", f"output={again}", "training.save_steps=2", *STEPS]
    dpo.main([*words, "dpo.beta=0.5", "resume=auto"])
    (weights,) = (run / "checkpoint-3").glob("*.safetensors")
    resumed, straight = load_file(again / "checkpoint-3" / weights.name), load_file(weights)
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    with pytest.raises(ValueError, match=r"settings\.beta: 0\.5 -> 0\.1"):
        dpo.main([*words, "resume=auto"])


def test_pairs_are_kept_with_their_origin(finished: tuple[Path, Path]) -> None:
    start, run = finished
    kept = kept_pairs(run)
    assert kept is not None
    pairs, record = kept
    assert record["counts"]["pairs"] == len(pairs)
    (weights,) = next(start.glob("checkpoint-*")).glob("*.safetensors")
    assert record["checkpoint_sha256"].keys() == {weights.name}
    begin, recipe = load_start(str(start), str(run), {}, DPO_TRAINING)
    assert make_pairs(recipe, begin, DPOSettings(beta=0.5))[0].to_list() == pairs.to_list()
    train = load_split(recipe.data.path, "train")
    encoder = build_encoder(recipe, build_tokenizer(recipe))
    prompts = {tuple(encoder.encode(row).prompt_ids) for row in train}
    assert {tuple(ids) for ids in pairs["prompt_ids"]} <= prompts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dpo.bta=1"], "option 'dpo.bta' does not exist. Did you mean 'dpo.beta'"),
        (["dpo.beta=high"], "dpo.beta"),
        (["dpo.beta=0"], "dpo.beta=0.0 must be a finite number above 0"),
        (["dpo.source=beams"], "dpo.source"),
        (["dpo.temperature=1"], "dpo.temperature has no effect with dpo.source=beam"),
        (["loss.alpha=2"], "loss.alpha is not for this command"),
        (["optimizer=adafactor"], "training.optim chooses it"),
        (["training.learning_rte=1"], "Did you mean 'training.learning_rate'"),
        (["sed=1"], "Did you mean|sed"),
        (["data.path=nowhere"], "nowhere"),
        (["model.name=mistral"], "model.name has no place beside a checkpoint"),
    ],
)
def test_a_mistake_names_its_key(trained: Path, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dpo.main([f"checkpoint={trained}", f"output={tmp_path / 'new'}", *words])
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_started_from_is_refused(trained: Path, tmp_path: Path) -> None:
    soft = save_adapter(
        trained, tmp_path / "soft", PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2)
    )
    with pytest.raises(ValueError, match="is a soft prompt"):
        dpo.main([f"checkpoint={soft}", f"output={tmp_path / 'new'}"])
    with pytest.raises(ValueError, match="give output=, the directory of the new run"):
        dpo.main([f"checkpoint={trained}"])
    with pytest.raises(ValueError, match="already holds a run"):
        dpo.main([f"checkpoint={trained}", f"output={trained}"])


def test_without_trl_the_command_to_get_it_is_told(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "trl" else find(name))
    with pytest.raises(ValueError, match=r"TRL.*pip install 'stoical\[preferences\]'"):
        dpo.main([f"checkpoint={trained}", f"output={tmp_path / 'new'}"])


def test_nothing_is_reported_to_trl(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trl.trainer.base_trainer as base

    reported: list[Any] = []
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(base, "send_telemetry", lambda *arguments, **kwargs: reported.append(arguments))
    build(trained, tmp_path / "run")
    assert reported == []


def test_plain_text_learns_from_what_the_model_writes_instead(tmp_path: Path) -> None:
    """One target a prompt, and a prompt that shows no documents."""
    rows = [{"query_id": f"q{i}", "query": f"query {i}", "docs": [{"docid": f"ba do {i}"}]} for i in range(9)]
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "data" / "manifest.json").write_text("{}")
    own = [f"data.path={tmp_path / 'data'}", f"output={tmp_path / 'run'}", "eval.num_queries=2"]
    train.main(["recipe=text_sft,small", "prompt.template=plain", *TINY, *own])
    dpo.main([f"checkpoint={tmp_path / 'run'}", f"output={tmp_path / 'dpo'}", "dpo.source=free", *STEPS])
    kept = kept_pairs(tmp_path / "dpo")
    assert kept is not None
    tokenizer = AutoTokenizer.from_pretrained(next((tmp_path / "dpo").glob("checkpoint-*")))
    for pair, row in zip(kept[0], rows, strict=True):
        written = tokenizer.decode(pair["prompt_ids"], skip_special_tokens=True)
        assert row["query"] in written
        assert "ba do" not in written
        assert tokenizer.decode(pair["chosen_ids"], skip_special_tokens=True).strip() == row["docs"][0]["docid"]
    evaluate.main([f"checkpoint={tmp_path / 'dpo'}", "eval.generation=true"])
    with pytest.raises(ValueError, match=r"dpo\.source=beam finds no pairs"):
        dpo.main([f"checkpoint={tmp_path / 'run'}", f"output={tmp_path / 'none'}"])


def test_what_the_checkpoint_was_trained_with_does_not_go_on(trained: Path, tmp_path: Path) -> None:
    """Its mitigations, negatives, generated rows, schedule and noise; its precision and batch size do."""
    start = tmp_path / "run" / "checkpoint-3"
    shutil.copytree(trained / "checkpoint-3", start)
    saved = OmegaConf.load(start / "recipe.yaml")
    saved.data.generated = "gone.parquet"
    saved.training |= {"neftune_noise_alpha": 5.0, "weight_decay": 0.5, "tf32": False}
    saved.training.per_device_train_batch_size = 4
    saved.mitigations = {"consistency": {"mode": "target"}, "margin": {"margin": 1.0}}
    saved.data.num_negatives = 4
    OmegaConf.save(saved, start / "recipe.yaml")
    (start / "resume.json").unlink()  # its sums are of the recipe that was
    settings = {"training.learning_rate": "1"}
    _, recipe = load_start(str(start.parent), str(tmp_path / "dpo"), settings, DPO_TRAINING)
    assert recipe.data.generated is None
    assert not recipe.mitigations.chosen
    assert "neftune_noise_alpha" not in recipe.training
    assert (recipe.training["weight_decay"], recipe.training["warmup_steps"]) == (0.0, 0.1)
    assert (recipe.training["per_device_train_batch_size"], recipe.training["tf32"]) == (4, False)
    assert (recipe.training["learning_rate"], recipe.training["optim"], recipe.optimizer) == (1, "rmsprop", "trainer")
    assert recipe.model.name == str(start)
