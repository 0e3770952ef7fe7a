"""stoical self-train: the loop's runs, what it writes, that it goes on where it stopped, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

import stoical.build.model
import stoical.training.build
from stoical.commands import evaluate, self_train, train
from stoical.common.files import file_sha256
from stoical.config.loading import load_recipe
from stoical.encoding.generated_rows import RECORD_FILE, ROWS_FILE
from stoical.encoding.queries import EncodedDataset
from stoical.encoding.tokenized import TokenizedQuery
from stoical.self_training import loop
from tests.support import forked
from tests.support.launching import TWO_PROCESSES
from tests.support.small_data import TINY, make_rows, write_dataset

ITERATIONS = {"bash": 2, "bash_literal": 1}
EVERY = ["training.max_steps=2", "training.save_steps=1", "eval.num_queries=2"]


@pytest.fixture(autouse=True)
def fresh_process() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loop")
    write_dataset(folder / "data")
    write_dataset(folder / "texts")
    texts = [row | {"docs": row["docs"][:1]} for row in make_rows(24, 3)]
    (folder / "texts" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    return folder


def words(folder: Path, overlay: str, output: Path, *settings: str) -> list[str]:
    texts = overlay in ("bash_literal", "rac_text")
    data = [f"data.path={folder / 'texts'}", "prompt.template=plain"] if texts else [f"data.path={folder / 'data'}"]
    own = [*data, f"output={output}", *EVERY, *settings]
    chosen = {word.partition("=")[0]: word for word in [f"recipe=wordnet_beta2,small,{overlay}", *TINY, *own]}
    return list(chosen.values())


@pytest.fixture(scope="module")
def looped(folder: Path) -> Callable[[str], Path]:
    """The iterations of an overlay, run once. To be read, not to be written to. The literal one is on single texts."""
    done: dict[str, Path] = {}

    def run(overlay: str) -> Path:
        if overlay not in done:
            done[overlay] = folder / overlay
            count = f"self_training.iterations={ITERATIONS[overlay]}"
            self_train.main(words(folder, overlay, done[overlay], count))
        return done[overlay]

    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoint-2" / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    for name, weight in weights(one).items():
        assert torch.equal(weight, weights(other)[name]), name


@pytest.mark.parametrize("overlay", ITERATIONS)
def test_every_iteration_is_a_run_and_the_last_is_evaluated(looped: Callable[[str], Path], overlay: str) -> None:
    output = looped(overlay)
    last = ITERATIONS[overlay]
    for iteration in range(last + 1):
        run = output / f"iteration-{iteration}"
        assert {path.name for path in run.iterdir()} >= {"manifest.json", "metrics.jsonl", "recipe.yaml"}
        assert (run / ROWS_FILE).is_file() == (iteration > 0)
    evaluate.main([f"checkpoint={output}", "eval.num_queries=2"])
    assert (run / "eval_2" / "metrics.json").is_file()
    before = weights(output / f"iteration-{last - 1}")
    assert any(not torch.equal(weight, before[name]) for name, weight in weights(run).items())


@pytest.mark.parametrize("overlay", ITERATIONS)
def test_where_rows_come_from_is_beside_them(looped: Callable[[str], Path], overlay: str) -> None:
    last = ITERATIONS[overlay]
    run = looped(overlay) / f"iteration-{last}"
    record, table = json.loads((run / RECORD_FILE).read_text()), pq.read_table(run / ROWS_FILE).to_pylist()
    facts = record["made_from"]
    assert (facts["method"], facts["iteration"], facts["seed"]) == ("bash", last, 1000 * last)
    assert facts["settings"]["beta"] == 0.2
    assert record["checkpoint"] == str(run.parent / f"iteration-{last - 1}" / "checkpoint-2")
    assert record["rows_sha256"] == file_sha256(run / ROWS_FILE)
    assert [row["row"] for row in table] == list(range(24)), "a share of 1: every row of the dataset once"
    assert record["counts"]["rows"] == 24
    own = [flag for row in table for flag in row["own"]]
    assert record["counts"]["own_tokens"] == sum(own) / len(own)
    assert all(len(row["tokens"]) == len(row["own"]) == len(row["changed"]) for row in table)
    assert f"Self-training (bash, iteration {last})" in (run / "checkpoint-2" / "README.md").read_text()
    assert "Self-training" not in (run.parent / "iteration-0" / "README.md").read_text()


def test_the_first_iteration_is_the_run_without_the_section(folder: Path, looped: Callable[[str], Path]) -> None:
    train.main(words(folder, "quickstart", folder / "plain"))
    assert_same_weights(folder / "plain", looped("bash") / "iteration-0")


def test_every_iteration_has_a_seed_of_its_own(folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(*words(folder, "bash", tmp_path / "run", "seed=3", "training.data_seed=5"))
    stage = loop.stage_recipe(recipe, 2, tmp_path)
    assert (stage.seed, stage.training["data_seed"]) == (2003, 2005)
    assert recipe.training["data_seed"] == 5
    assert stage.self_training is None and stage.data.generated == str(tmp_path / "run" / "iteration-2" / ROWS_FILE)
    first = loop.stage_recipe(recipe, 0, None)
    assert (first.seed, first.model, first.data) == (3, recipe.model, recipe.data)


class Twice(EncodedDataset):
    """The training split, and it again in the shuffle that generated rows have."""

    def __len__(self) -> int:
        return 2 * len(self.rows)

    def __getitem__(self, index: int) -> TokenizedQuery:
        if index < len(self.rows):
            return super().__getitem__(index)
        return self.encoder.encode(self.rows[index - len(self.rows)], -1)


@pytest.mark.parametrize("overlay", ITERATIONS)
def test_at_beta_0_training_is_that_on_the_same_gold_rows_bit_for_bit(
    folder: Path, looped: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overlay: str
) -> None:
    start = looped(overlay) / "iteration-0"
    own = [f"self_training.start={start}", "self_training.iterations=1", "self_training.bash.beta=0"]
    self_train.main(words(folder, overlay, tmp_path / "mixed", *own))
    monkeypatch.setattr(stoical.training.build, "training_rows", lambda _, train, encoder: Twice(train, encoder))
    self_train.main(words(folder, overlay, tmp_path / "gold", *own))
    assert_same_weights(tmp_path / "mixed" / "iteration-1", tmp_path / "gold" / "iteration-1")


def stop_before(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """As if the process were killed when it is to generate that iteration's rows."""
    generate = loop.generate

    def killed(recipe, settings, facts, checkpoint):
        if facts["iteration"] == iteration:
            raise KeyboardInterrupt
        generate(recipe, settings, facts, checkpoint)

    monkeypatch.setattr(loop, "generate", killed)


def changed_since(output: Path, before: dict[Path, int]) -> set[str]:
    return {path.relative_to(output).as_posix() for path, time in before.items() if path.stat().st_mtime_ns != time}


def test_a_loop_that_stops_anywhere_goes_on_to_the_same_weights(
    folder: Path, looped: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        stop_before(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            self_train.main(words(folder, "bash", output))
    shutil.rmtree(output / "iteration-1" / "checkpoint-2")  # and in the middle of a training
    kept = [output / "iteration-0" / "checkpoint-2" / "model.safetensors", output / "iteration-1" / ROWS_FILE]
    before = {path: path.stat().st_mtime_ns for path in kept}
    self_train.main(words(folder, "bash", output, "resume=auto"))
    assert changed_since(output, before) == set()
    assert_same_weights(looped("bash") / "iteration-2", output / "iteration-2")
    own, first = output / "iteration-2" / ROWS_FILE, looped("bash") / "iteration-2" / ROWS_FILE
    assert own.read_bytes() == first.read_bytes(), "generated again, from the same weights and seed"
    self_train.main(words(folder, "bash", output, "resume=auto"))  # nothing left to do
    assert changed_since(output, before) == set()


def copied(looped: Callable[[str], Path], tmp_path: Path) -> Path:
    """A loop that ended after its first iteration, to spoil."""
    shutil.copytree(looped("bash"), tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "iteration-2")
    return tmp_path / "copy"


def refused(arguments: Sequence[str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        self_train.main(arguments)


def test_rows_are_used_again_only_where_they_are_what_they_would_be(
    folder: Path, looped: Callable[[str], Path], tmp_path: Path
) -> None:
    output = copied(looped, tmp_path)
    for checkpoint in (output / "iteration-1").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    rows = output / "iteration-1" / ROWS_FILE
    good = rows.read_bytes()
    rows.write_bytes(good[:-1])  # cut short
    one = [*words(folder, "bash", output, "resume=auto", "self_training.iterations=1")]
    self_train.main(one)
    assert rows.read_bytes() == good
    refused(
        [*one[:-1], "self_training.bash.beta=0.5"],
        r"checkpoint-2 was trained on rows that were made otherwise: settings.beta: 0.2 -> 0.5. Give the settings",
    )
    rows.unlink()
    refused(one, "was trained on rows that are gone")


def test_existing_loops_are_not_overwritten(folder: Path, looped: Callable[[str], Path]) -> None:
    output = looped("bash")
    refused(words(folder, "bash", output), "already holds iteration-2; set resume=auto")
    refused(words(folder, "bash", output, "resume=auto", "resume_force=true"), "takes resume=auto alone")
    refused(words(folder, "bash", output, "resume=auto", "training.learning_rate=1"), "learning_rate: 0.002 -> 1")


BAD = {
    "self_training.iterations=0": "self_training.iterations=0 must be at least 1",
    "self_training.bash.beta=1.5": "self_training.bash.beta=1.5 must lie between 0 and 1",
    "self_training.share=0": "self_training.share=0.0 must be a finite number above 0",
    "self_training.start=nowhere": "self_training.start: checkpoint=nowhere: no such directory",
    "tokenizer.terminator=none": "self_training conflicts with tokenizer.terminator=none",
    "training.save_strategy=no": "self_training conflicts with training.save_strategy=no",
    "training.save_strategy=best": "needs training.metric_for_best_model",
    "recipe=wordnet_alpha2,small,bash": "goes with loss.item=indicator",
    "recipe=wordnet_beta2,small,reinforce,bash": "conflicts with mitigations.reinforce",
    "recipe=wordnet_beta2,small": "no self_training section: add an overlay",
    "self_training.bash=null": "no effect without a method",
    "recipe=wordnet_beta2,small,bash,rac": "self_training.bash conflicts with self_training.rac",
    "recipe=wordnet_beta2,small,rac self_training.rac.keep_right=1": "keep_right=1.0 must be at least 0",
    "data.generated=x": "self_training conflicts with data.generated",
    "lora.r=4": "self_training with lora conflicts with model.from_scratch=true",
    "model.adapter=x": "model.adapter=x has no effect without the section lora",
}


@pytest.mark.parametrize("overlay", ["rac", pytest.param("rac_gold", marks=pytest.mark.slow), "rac_text"])
def test_corrections_are_generated_trained_on_and_evaluated(
    folder: Path, looped: Callable[[str], Path], tmp_path: Path, overlay: str
) -> None:
    start = looped("bash_literal" if overlay == "rac_text" else "bash") / "iteration-0"
    own = [f"self_training.start={start}", "self_training.iterations=1", "self_training.rac.temperature=1"]
    self_train.main(words(folder, overlay, tmp_path / "run", *own))
    assert not (tmp_path / "run" / "iteration-0").exists()
    run = tmp_path / "run" / "iteration-1"
    record, table = json.loads((run / RECORD_FILE).read_text()), pq.read_table(run / ROWS_FILE).to_pylist()
    assert record["made_from"]["method"] == "rac"
    assert record["counts"]["answers"] == 24 and record["counts"]["rows"] == len(table) > 0
    assert all((row["correction"] is None) == (overlay == "rac_gold") and not row["right"] for row in table)
    evaluate.main([f"checkpoint={tmp_path / 'run'}", "eval.num_queries=2"])
    before = weights(start)
    assert any(not torch.equal(weight, before[name]) for name, weight in weights(run).items())


def test_two_processes_generate_what_one_does(folder: Path, looped: Callable[[str], Path], tmp_path: Path) -> None:
    own = [f"self_training.start={looped('bash') / 'iteration-0'}", "self_training.iterations=1"]
    command = ["self-train", *words(folder, "bash", tmp_path / "run", *own)]
    forked.run(forked.command, *command, log=tmp_path / "log", world=2, config=TWO_PROCESSES)
    run = tmp_path / "run" / "iteration-1"
    assert json.loads((run / RECORD_FILE).read_text())["processes"] == 2
    assert (run / ROWS_FILE).read_bytes() == (looped("bash") / "iteration-1" / ROWS_FILE).read_bytes()
    assert (run / "checkpoint-2").is_dir()


def test_adapters_go_on_from_those_of_the_iteration_before(
    folder: Path, looped: Callable[[str], Path], tmp_path: Path
) -> None:
    """With a learning rate of next to nothing they stay what they were; new ones would be random."""
    base = looped("bash") / "iteration-0" / "checkpoint-2"
    below = [f"model.name={base}", "model.from_scratch=false", "model.dtype=float32"]
    own = [*below, f"tokenizer.name={base}", "tokenizer.vocab_size=null", "lora.r=2", "training.learning_rate=1e-9"]
    given = words(folder, "lora,bash", tmp_path / "run", *own, "self_training.iterations=1")
    self_train.main(given)
    saved = [tmp_path / "run" / f"iteration-{i}" / "checkpoint-2" / "adapter_model.safetensors" for i in (0, 1)]
    first, second = map(load_file, saved)
    for name, weight in first.items():
        assert torch.allclose(weight, second[name], atol=1e-6), name
        assert "lora_A" not in name or weight.abs().max() > 0.01
    evaluate.main([f"checkpoint={tmp_path / 'run'}", "eval.num_queries=2"])
    refused([*given, f"self_training.start={base}", "resume=auto"], "is whole, and this recipe trains the other kind")
    whole = words(folder, "bash", tmp_path / "other", f"self_training.start={tmp_path / 'run'}")
    refused(whole, "is an adapter, and this recipe trains the other kind: add the overlay lora")


def test_rows_do_not_go_with_another_kind_of_loss(folder: Path, looped: Callable[[str], Path], tmp_path: Path) -> None:
    rows = looped("bash") / "iteration-1" / ROWS_FILE
    own = [f"data.generated={rows}", "seed=1000"]
    for overlay, match in (("reinforce", "conflicts with mitigations.reinforce"), ("lora", "goes with loss.item=ind")):
        alpha = ["recipe=wordnet_alpha2,small"] if overlay == "lora" else []
        with pytest.raises(ValueError, match=match):
            train.main(words(folder, overlay, tmp_path / "run", *own, *alpha))


def test_tokens_of_tries_with_one_docid_are_refused(
    folder: Path, looped: Callable[[str], Path], tmp_path: Path
) -> None:
    start = f"self_training.start={looped('bash_literal') / 'iteration-0'}"
    own = [f"data.path={folder / 'texts'}", "prompt.template=plain", start]
    for overlay in ("bash", "rac"):
        given = words(folder, overlay, tmp_path / overlay, *own)
        refused(given, rf"{overlay}.source=constrained has no effect on texts/train, where every row has one document")


@pytest.mark.slow
@pytest.mark.parametrize("overlay", ["bash_literal", "rac", "rac_gold", "rac_text"])
def test_every_overlay_goes_on_for_more_iterations(folder: Path, tmp_path: Path, overlay: str) -> None:
    sampled = ["self_training.rac.temperature=1"] if overlay.startswith("rac") else []
    self_train.main(words(folder, overlay, tmp_path / "run", *sampled))
    evaluate.main([f"checkpoint={tmp_path / 'run'}"])
    assert (tmp_path / "run" / "iteration-2" / "eval" / "metrics.json").is_file()


@pytest.mark.parametrize("word", BAD)
def test_bad_settings_are_refused_by_name(folder: Path, tmp_path: Path, word: str) -> None:
    given = {w.partition("=")[0]: w for w in [*words(folder, "bash", tmp_path / "run"), *word.split()]}
    refused(list(given.values()), BAD[word])
    assert not (tmp_path / "run" / "iteration-0").exists()


def test_train_points_to_the_loop(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use stoical self-train"):
        train.main(words(folder, "bash", tmp_path / "run"))


def test_rows_of_other_data_or_another_seed_are_refused(
    folder: Path, looped: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = looped("bash") / "iteration-1" / ROWS_FILE
    given = words(folder, "quickstart", tmp_path / "run", f"data.generated={rows}")
    with pytest.raises(ValueError, match=r"does not go with seed=0: its seed is 1000, and here it is 0"):
        train.main(given)
    write_dataset(tmp_path / "data", train=25)
    with pytest.raises(ValueError, match=r"does not go with data.path=.*its train_sha256"):
        train.main(words(tmp_path, "quickstart", tmp_path / "run", f"data.generated={rows}", "seed=1000"))
    with pytest.raises(ValueError, match=r"data.generated=.*nothing.parquet: there is no such file"):
        train.main(words(folder, "quickstart", tmp_path / "run", "data.generated=nothing.parquet"))
