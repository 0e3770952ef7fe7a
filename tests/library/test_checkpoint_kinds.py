"""Full, LoRA and soft-prompt checkpoints, each by its directory alone, against one plain forward a docID."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from peft import LoraConfig, PeftConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from torch import nn

from stoical.commands import evaluate
from stoical.data.dataset import load_split
from stoical.decoding.beam_search import beam_search, greedy
from stoical.decoding.device_trie import DeviceTrie
from stoical.decoding.logits_processor import TrieLogitsProcessor
from stoical.ranker import Ranker
from stoical.runs.find import find_checkpoint, load_checkpoint
from stoical.trie.prefix_tree import build_trie
from tests.support.small_evaluation import constrained_scores, greedy_scores, token_logprobs
from tests.support.tiny_run import DOCS, one_forward_each, plain_model, save_adapter

PATHS = {"greedy_path": constrained_scores, "free_greedy_path": greedy_scores}
PROMPT = [1, 40, 41, 42, 43]
DOCIDS = [[5, 6, 2], [5, 2], [5, 6, 7, 2], [9, 2], [8, 6, 2], [8, 7, 6, 2]]  # 2 is EOS
KINDS: dict[str, PeftConfig | None] = {
    "full": None,
    "lora": LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
    "prompt tuning": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "p-tuning": PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=8),
}


@dataclass(frozen=True)
class Loaded:
    """A run with one checkpoint, its ranker, and its weights as peft or transformers alone load them."""

    name: str
    run: Path
    ranker: Ranker
    plain: nn.Module


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    config, run = KINDS[request.param], trained
    if config is not None:
        run = save_adapter(trained, tmp_path_factory.mktemp("adapter") / "run", config)
    return Loaded(request.param, run, Ranker.from_pretrained(run, device="cpu"), plain_model(run))


def test_a_ranker_needs_the_directory_alone(kind: Loaded, loaded: Ranker) -> None:
    results = kind.ranker.rank("query ba", DOCS)
    expected = one_forward_each(kind.plain, kind.ranker.encoder, "query ba", DOCS)
    assert [result.docid for result in results] == sorted(DOCS, key=lambda name: -expected[name])
    np.testing.assert_allclose([r.score for r in results], [expected[r.docid] for r in results], atol=1e-5)
    base = {result.docid: result.score for result in loaded.rank("query ba", DOCS)}
    changed = max(abs(base[result.docid] - result.score) for result in results)
    assert changed == 0 if kind.name == "full" else changed > 1e-3, "the adapter does something"


@pytest.mark.parametrize("mode", ["exact", "greedy_path", "free_greedy_path"])
def test_an_evaluation_needs_the_directory_alone(mode: str, kind: Loaded, trained: Path, tmp_path: Path) -> None:
    evaluate.main([f"checkpoint={kind.run}", f"output={tmp_path}", f"eval.mode={mode}"])
    found = [json.loads(line) for line in (tmp_path / "per_query.jsonl").read_text().splitlines()]
    for row, asked in zip(found, load_split(str(trained.parent / "data"), "test"), strict=True):
        query = kind.ranker.encoder.encode(asked, negatives=True)
        if mode != "exact":
            expected = PATHS[mode](kind.plain, query)
        else:
            each = [token_logprobs(kind.plain, list(query.prompt_ids), list(ids)) for ids in query.docid_ids]
            expected = [sum(logprobs) / len(logprobs) for logprobs in each]
        np.testing.assert_allclose(row["scores"], expected, atol=1e-5)


def test_no_setting_puts_other_weights_in_a_checkpoints_place(kind: Loaded, trained: Path, tmp_path: Path) -> None:
    checkpoint = find_checkpoint(str(kind.run))
    others = {
        "model.name": str(trained / "checkpoint-3"),
        "model.from_scratch": "true",
        "model.adapter": str(checkpoint),
    }
    for key in others if kind.name == "full" else ["model.adapter"]:
        with pytest.raises(ValueError, match=rf"^{key} has no place beside a checkpoint: .* holds .*; leave it out"):
            load_checkpoint(checkpoint, {key: others[key]})
    if kind.name != "full":  # the model below may have moved, and have been a random one that the seed drew
        moved, _ = load_checkpoint(checkpoint, {"model.name": "elsewhere"})
        assert moved.model.name == "elsewhere"
        on_random = tmp_path / "checkpoint-7"
        shutil.copytree(checkpoint, on_random)
        recipe = OmegaConf.load(on_random / "recipe.yaml")
        recipe.model |= {"name": "mistral", "from_scratch": True}
        OmegaConf.save(recipe, on_random / "recipe.yaml")
        with pytest.raises(ValueError, match=r"^seed decides the random model below the adapter .*; leave it out"):
            load_checkpoint(on_random, {"seed": "1"})
    assert load_checkpoint(checkpoint, {"seed": "1"})[0].seed == 1


def test_bfloat16_weights_give_nearly_the_same_scores_in_float32(kind: Loaded) -> None:
    low = Ranker.from_pretrained(kind.run, device="cpu", dtype=torch.bfloat16)
    assert all(parameter.dtype == torch.bfloat16 for name, parameter in low.model.named_parameters() if "norm" in name)
    found, expected = ({r.docid: r.score for r in each.rank("query ba", DOCS)} for each in (low, kind.ranker))
    assert found != expected
    assert found == pytest.approx(expected, abs=0.2)
    assert any(score != torch.tensor(score).bfloat16().item() for score in found.values())


def mean_logprobs(model: nn.Module) -> list[float]:
    return [float(np.mean(token_logprobs(model, PROMPT, ids))) for ids in DOCIDS]


def test_decoding_finds_the_best_docids(kind: Loaded) -> None:
    expected, trie = mean_logprobs(kind.plain), DeviceTrie.from_trie(build_trie(DOCIDS))
    found = beam_search(kind.ranker.model, PROMPT, trie, 10)
    assert [hypothesis.doc for hypothesis in found] == sorted(range(6), key=lambda doc: -expected[doc])
    assert [hypothesis.score for hypothesis in found] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)
    assert greedy(kind.ranker.model, PROMPT, trie).score == pytest.approx(expected[found[0].doc], abs=2)


def test_generate_with_the_processor_finds_them_too(kind: Loaded) -> None:
    trie = DeviceTrie.from_trie(build_trie(DOCIDS))
    output = kind.ranker.model.generate(  # type: ignore[operator]
        input_ids=torch.tensor([PROMPT]),
        attention_mask=torch.ones(1, len(PROMPT), dtype=torch.int64),
        logits_processor=[TrieLogitsProcessor(trie, len(PROMPT), 2)],
        **{"num_beams": 6, "num_return_sequences": 6, "length_penalty": 1.0, "early_stopping": "never"},
        **{"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": 2},
        **{"return_dict_in_generate": True, "output_scores": True},
    )
    rows = [[*row[: row.index(2)], 2] for row in output.sequences[:, len(PROMPT) :].tolist()]
    ours = beam_search(kind.ranker.model, PROMPT, trie, 6)
    assert rows == [DOCIDS[hypothesis.doc] for hypothesis in ours]
    assert output.sequences_scores.tolist() == pytest.approx([hypothesis.score for hypothesis in ours], abs=1e-5)


def test_an_adapters_base_model_is_the_recipes(trained: Path, tmp_path: Path) -> None:
    run = save_adapter(trained, tmp_path / "run", KINDS["lora"] or PeftConfig())
    recipe, adapter = load_checkpoint(run / "checkpoint-7", {})
    assert adapter == run / "checkpoint-7"
    assert recipe.model.name == str(trained / "checkpoint-3")
    (run / "checkpoint-7" / "recipe.yaml").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-7 has no recipe.yaml, .*; put the recipe of its run beside it"):
        Ranker.from_pretrained(run)


def test_a_layout_that_cannot_put_a_soft_prompt_first_is_refused(trained: Path, tmp_path: Path) -> None:
    run = save_adapter(trained, tmp_path / "run", KINDS["prompt tuning"] or PeftConfig())
    with pytest.raises(ValueError, match="checkpoint-7 is a soft prompt, which layout=sequence cannot put first; set"):
        Ranker.from_pretrained(run, {"layout": "sequence"})


def test_an_adapter_that_writes_keys_and_values_is_refused(trained: Path, tmp_path: Path) -> None:
    run = save_adapter(trained, tmp_path / "run", PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ValueError, match="PREFIX_TUNING is not supported; use LoRA, prompt tuning or p-tuning"):
        Ranker.from_pretrained(run)
