"""SPIN: iterations of DPO against the model's own outputs, resumed between them and within."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, TaskType
from safetensors.torch import load_file

from stoical.commands import evaluate, spin
from stoical.encoding.packed_batch import PackedBatch
from stoical.preferences import pairs as preferences
from stoical.preferences import spin as spinning
from stoical.preferences.run import kept_pairs
from stoical.ranker import Ranker
from stoical.runs.checkpoints import last_checkpoint
from tests.support.tiny_run import DOCS, save_adapter, train_tiny

pytest.importorskip("trl", reason="needs pip install 'stoical[preferences]'")
TWO = ["spin.iterations=2", "spin.max_new_tokens=4", "spin.num_queries=12", "training.num_train_epochs=1"]
TWO += ["training.learning_rate=1e-3", "training.logging_steps=1", "training.eval_strategy=no"]
TWO += ["training.save_steps=2", "training.save_total_limit=2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("spin"))


@pytest.fixture(scope="module")
def finished(trained: Path) -> Path:
    """A SPIN run of two iterations."""
    output = trained.parent / "spun"
    spin.main([f"checkpoint={trained}", f"output={output}", *TWO])
    return output


def last_of(run: Path, iteration: int) -> Path:
    last = last_checkpoint(run / f"iteration-{iteration}")
    assert last is not None
    return last


def weights(run: Path, iteration: int) -> dict[str, torch.Tensor]:
    (file,) = last_of(run, iteration).glob("*.safetensors")
    found: dict[str, torch.Tensor] = load_file(file)
    return found


def pairs_of(run: Path, iteration: int) -> tuple[Any, dict[str, Any]]:
    kept = kept_pairs(run / f"iteration-{iteration}")
    assert kept is not None
    return kept


def steps_of(run: Path, iteration: int) -> int:
    rows = (run / f"iteration-{iteration}" / "metrics.jsonl").read_text().splitlines()
    return int(json.loads(rows[-1])["step"])


def test_every_iteration_plays_against_the_last_one(trained: Path, finished: Path) -> None:
    first, second = pairs_of(finished, 1), pairs_of(finished, 2)
    assert first[1]["checkpoint"] == str(trained / "checkpoint-3")
    assert second[1]["checkpoint"] == str(last_of(finished, 1))
    assert first[1]["checkpoint_sha256"] != second[1]["checkpoint_sha256"]
    assert [first[1]["epoch"], second[1]["epoch"]] == [0, 1]
    assert first[1]["counts"] == {"queries": 12, "pairs": 12, "queries_without_pairs": 0, "cut_outputs": 12}
    assert first[0]["rejected_ids"] != second[0]["rejected_ids"]
    for iteration in (1, 2):
        recipe = (finished / f"iteration-{iteration}" / "recipe.yaml").read_text()
        assert f"name: {pairs_of(finished, iteration)[1]['checkpoint']}\n" in recipe
        rows = (finished / f"iteration-{iteration}" / "metrics.jsonl").read_text().splitlines()
        assert json.loads(rows[0])["loss"] == pytest.approx(0.693147, abs=1e-5)  # policy = reference = p_k


def test_an_iteration_trains_on_its_pairs_and_those_of_the_one_before(finished: Path) -> None:
    assert len(pairs_of(finished, 1)[0]) == len(pairs_of(finished, 2)[0]) == 12
    assert [steps_of(finished, 1), steps_of(finished, 2)] == [2, 3]  # 12 and 24 pairs, 8 a step


def test_the_result_is_evaluated_and_ranked_with_like_any_other(trained: Path, finished: Path) -> None:
    evaluate.main([f"checkpoint={finished}", f"output={finished.parent / 'results'}"])
    assert (finished.parent / "results" / "metrics.json").is_file()
    scores = [Ranker.from_pretrained(run).rank("query ba", DOCS) for run in (trained, finished)]
    assert scores[0] != scores[1]
    assert Ranker.from_pretrained(last_of(finished, 2)).rank("query ba", DOCS) == scores[1]
    assert "self-play fine-tuning" in (finished / "iteration-2" / "README.md").read_text()


def test_a_stopped_command_goes_on_between_iterations_to_the_same_weights(
    trained: Path, finished: Path, tmp_path: Path
) -> None:
    again = tmp_path / "spun"
    words = [f"checkpoint={trained}", f"output={again}", *TWO]
    spin.main([*words[:2], "spin.iterations=1", *TWO[1:]])
    with pytest.raises(ValueError, match="already holds a run; set resume=auto"):
        spin.main(words)
    spin.main([*words, "resume=auto"])
    assert pairs_of(again, 2)[0].to_list() == pairs_of(finished, 2)[0].to_list()
    for iteration in (1, 2):
        straight = weights(finished, iteration)
        assert all(torch.equal(value, straight[name]) for name, value in weights(again, iteration).items())
    with pytest.raises(ValueError, match=r"spin\.temperature: 1\.0 -> 0\.5"):
        spin.main([*words, "resume=auto", "spin.temperature=0.5"])


def test_kept_pairs_are_not_made_again_and_done_iterations_stay(
    trained: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"checkpoint={trained}", f"output={finished}", "resume=auto", *TWO]

    def never(*arguments: Any, **kwargs: Any) -> Any:
        raise AssertionError("done again")

    monkeypatch.setattr(spinning, "make_pairs", never)
    before = weights(finished, 2)
    assert last_of(finished, 2).name == "checkpoint-3"
    for kept in ("checkpoint-2", None):  # goes on within iteration 2, or trains it anew, on the pairs that it had
        for checkpoint in (finished / "iteration-2").glob("checkpoint-*"):
            if checkpoint.name != kept:
                shutil.rmtree(checkpoint)
        spin.main(words)
        assert all(torch.equal(value, before[name]) for name, value in weights(finished, 2).items())
    monkeypatch.setattr(spinning, "train_on_pairs", never)
    spin.main(words)
    untrained = shutil.ignore_patterns("checkpoint-*")
    shutil.copytree(finished / "iteration-1", tmp_path / "spun" / "iteration-1", ignore=untrained)
    shutil.copy(finished / "spin.json", tmp_path / "spun")
    with pytest.raises(AssertionError, match="done again"):  # pairs of other prompts are not taken
        spin.main([words[0], f"output={tmp_path / 'spun'}", *words[2:], "seed=1"])


def test_right_outputs_alone_end_it(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def right(model: Any, batch: PackedBatch, *arguments: Any) -> list[list[int]]:
        first = torch.searchsorted(batch.doc_query, torch.arange(len(batch.query_ids)))
        return [batch.node_token[path[path >= 0]].tolist() for path in batch.doc_path[first]]

    monkeypatch.setattr(preferences, "free_outputs", right)
    spin.main([f"checkpoint={trained}", f"output={tmp_path / 'spun'}", *TWO])
    said = capsys.readouterr().out
    assert "12 queries, 0 pairs, 12 queries without pairs, 12 right outputs" in said
    assert "every output is right: there is nothing left to learn after 0 iterations" in said


def test_an_adapter_plays_against_its_own_copy(trained: Path, tmp_path: Path) -> None:
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=2, target_modules="all-linear", init_lora_weights=False)
    start = save_adapter(trained, tmp_path / "adapted", config)
    spin.main([f"checkpoint={start}", f"output={tmp_path / 'spun'}", *TWO])
    for iteration in (1, 2):
        rows = (tmp_path / "spun" / f"iteration-{iteration}" / "metrics.jsonl").read_text().splitlines()
        assert json.loads(rows[0])["loss"] == pytest.approx(0.693147, abs=1e-5)
    first, second = weights(tmp_path / "spun", 1), weights(tmp_path / "spun", 2)
    assert all("lora_" in name and not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["spin.iteration=2"], "spin.*iterations"),
        (["spin.iterations=0"], "spin.iterations=0 must be at least 1"),
        (["spin.beta=-1"], "spin.beta=-1.0 must be a finite number above 0"),
        (["spin.temperature=-1"], "spin.temperature=-1.0 must be"),
        (["resume=somewhere"], "this command takes resume=auto"),
        (["training.save_strategy=no"], "training.save_strategy is not for this command"),
        (["tokenizer.terminator=none"], "needs tokenizer.terminator=eos"),
    ],
)
def test_a_mistake_names_its_key(trained: Path, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spin.main([f"checkpoint={trained}", f"output={tmp_path / 'new'}", *words])


def test_a_directory_that_holds_something_else_is_refused(trained: Path) -> None:
    with pytest.raises(ValueError, match="holds something else"):
        spin.main([f"checkpoint={trained}", f"output={trained}", *TWO])
