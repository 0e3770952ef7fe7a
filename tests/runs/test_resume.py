"""Resuming: the same weights as going through, from a whole checkpoint of the same run, and nothing lost or doubled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from transformers import Trainer

from stoical.common.files import write_whole
from stoical.config.recipe import Recipe
from stoical.data.files import split_sha256
from stoical.runs.checkpoints import UNFINISHED, discard, last_checkpoint, prune
from stoical.runs.directory import start_run
from stoical.runs.resume import is_free, resume_from, steps_done
from stoical.training.build import build_trainer
from stoical.training.run import train
from tests.support.small_data import make_rows, write_dataset
from tests.support.tiny_recipe import tiny_recipe
from tests.support.tiny_run import train_tiny
from tests.support.training import trained_run


@pytest.fixture(autouse=True)
def fresh_process() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `data` and a `run` of three steps that ends with checkpoint-3."""
    return train_tiny(tmp_path_factory.mktemp("resume")).parent


@pytest.fixture
def trained(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to spoil."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return tmp_path


def make(folder: Path, *extra: str, output: str = "run") -> Recipe:
    return tiny_recipe(folder, "training.save_steps=3", *extra, output=output)


@pytest.mark.parametrize(
    "own",
    [
        ["training.lr_scheduler_type=constant"],
        ["training.dataloader_num_workers=2", "training.dataloader_prefetch_factor=3"],
        ["training.per_device_train_batch_size=3", "global_batch_size=9", "optimizer=trainer"],
        [
            "recipe=wordnet_beta2,small,scheduled_sampling_parallel,consistency,neftune",
            "mitigations.scheduled_sampling.half_step=3",
            "mitigations.consistency.free_run=sampled",
        ],
        ["recipe=wordnet_beta2,small,prefix_margin,unlikelihood", "training.dataloader_num_workers=1"],
        ["model.name=mixtral", "model.config.num_local_experts=3"],  # which transformers saves under other names
    ],
    ids=["constant", "workers", "accumulation", "mitigations and noise", "negatives", "experts"],
)
def test_resume_equals_going_through(tmp_path: Path, own: list[str]) -> None:
    """Stop after 5 of 10 steps (the second epoch's middle), resume, and get the same weights, bit for bit."""
    write_dataset(tmp_path / "data", train=25)
    every = ["training.max_steps=10", "training.save_steps=5", *own]
    through = trained_run(make(tmp_path, *every, output="through"))
    shutil.copytree(tmp_path / "through" / "checkpoint-5", tmp_path / "stopped" / "checkpoint-5")
    resumed = trained_run(make(tmp_path, *every, "resume=auto", output="stopped"))
    assert resumed.state.global_step == 10
    for name, weight in through.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_a_run_of_epochs_that_is_done_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    epochs = ["training.max_steps=-1", "training.num_train_epochs=1", "training.lr_scheduler_type=constant"]
    train(make(tmp_path, *epochs))
    run = tmp_path / "run"
    (run / "_unfinished" / "old-checkpoint-1").mkdir(parents=True)  # as a kill while pruning leaves it
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "README.md"}
    assert train(make(tmp_path, *epochs, "resume=auto")) == run / "checkpoint-3"
    assert "checkpoint-3 has done all 3 steps; to train on, raise training.num_train_epochs" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    assert not (run / "_unfinished").exists()
    further = [*epochs[:1], "training.num_train_epochs=1.5", *epochs[2:]]
    assert train(make(tmp_path, *further, "resume=auto")) == run / "checkpoint-5"


def test_existing_runs_are_not_overwritten(trained: Path) -> None:
    with pytest.raises(ValueError, match=r"already holds a run \(checkpoint-3\); set resume=auto"):
        resume_from(make(trained))
    assert resume_from(make(trained, "resume=auto")) == trained / "run" / "checkpoint-3"
    assert resume_from(make(trained, "resume=auto", output="other")) is None
    with pytest.raises(ValueError, match="no such checkpoint"):
        resume_from(make(trained, "resume=nowhere"))


def test_a_checkpoint_of_the_middle_is_not_mixed_with_later_ones(trained: Path) -> None:
    shutil.copytree(trained / "run" / "checkpoint-3", trained / "run" / "checkpoint-9")
    middle = f"resume={trained / 'run' / 'checkpoint-3'}"
    with pytest.raises(ValueError, match=r"run holds checkpoint-9, which training from there would mix with"):
        resume_from(make(trained, middle))
    assert resume_from(make(trained, middle, output="other")) == trained / "run" / "checkpoint-3"


CHANGES = {
    "training.learning_rate=0.5": "training.learning_rate: 0.002 -> 0.5",
    "training.max_steps=9": "training.max_steps: 3 -> 9",
    "training.weight_decay=0.1": "training.weight_decay: 0.0 -> 0.1",
    "training.data_seed=3": "training.data_seed: (not set) -> 3",
    "loss.alpha=1": "loss.alpha: 2.0 -> 1.0",
    "seed=5": "seed: 0 -> 5",
    "model.config.num_hidden_layers=2": "model.config.num_hidden_layers: 1 -> 2",
    "training.per_device_train_batch_size=4": "training.per_device_train_batch_size: 8 -> 4",
}
SAME = [
    "training.save_steps=1",
    "training.save_total_limit=7",
    "training.eval_steps=2",
    "training.logging_steps=1",
    "training.dataloader_num_workers=1",
    "training.report_to=none",
    "training.disable_tqdm=true",
    "eval.num_queries=2",
]


@pytest.mark.parametrize("word", CHANGES)
def test_a_changed_recipe_is_refused_with_the_difference_unless_forced(trained: Path, word: str) -> None:
    with pytest.raises(ValueError, match="resume_force=true continues with the new ones") as error:
        resume_from(make(trained, "resume=auto", word))
    assert f"checkpoint-3 was not trained with the settings given: {CHANGES[word]}. Give those" in str(error.value)
    assert resume_from(make(trained, "resume=auto", word, "resume_force=true")) is not None


@pytest.mark.parametrize("word", SAME)
def test_what_cannot_change_the_weights_may_change(trained: Path, word: str) -> None:
    assert resume_from(make(trained, "resume=auto", word)) is not None


def test_changed_data_is_refused_and_moved_data_is_not(trained: Path) -> None:
    (trained / "data").rename(trained / "moved")
    moved = f"data.path={trained / 'moved'}"
    assert resume_from(make(trained, "resume=auto", moved)) is not None
    with (trained / "moved" / "train.jsonl").open("a") as file:
        file.write(json.dumps(make_rows(1, 9, first_id=99)[0]) + "\n")
    with pytest.raises(ValueError, match=r"given: data_sha256.train: \w{12}\.\.\. -> \w{12}\.\.\.\. Give"):
        resume_from(make(trained, "resume=auto", moved))
    assert resume_from(make(trained, "resume=auto", moved, "resume_force=true")) is not None


def test_a_changed_template_is_refused(tmp_path: Path) -> None:
    template = tmp_path / "own.yaml"
    template.write_text("prompt: 'Find {query} in {docs}'\ndoc: '{docid}'\ndelimiter: ' '\n")
    write_dataset(tmp_path / "data")
    trained_run(make(tmp_path, f"prompt.template={template}"))
    template.write_text(template.read_text().replace("Find", "Rank"))
    with pytest.raises(ValueError, match=r"template_sha256: \w{12}\.\.\. -> "):
        resume_from(make(tmp_path, f"prompt.template={template}", "resume=auto"))


def test_another_number_of_processes_is_refused(trained: Path) -> None:
    path = trained / "run" / "checkpoint-3" / "resume.json"
    record = json.loads(path.read_text())
    assert record["num_processes"] == 1
    path.write_text(json.dumps(record | {"num_processes": 2, "sharding": "fsdp"}))
    with pytest.raises(ValueError, match="num_processes: 2 -> 1, sharding: fsdp -> none"):
        resume_from(make(trained, "resume=auto"))


def test_the_runs_length_may_change_where_the_schedule_does_not_follow_it(trained: Path) -> None:
    def free(key: str, **training: Any) -> bool:
        recipe = make(trained)
        recipe.training |= training
        return is_free(key, recipe)

    assert free("training.max_steps", lr_scheduler_type="constant_with_warmup")
    assert not free("training.max_steps", lr_scheduler_type="constant_with_warmup", warmup_steps=0.1)
    assert not free("training.max_steps", lr_scheduler_type="cosine")
    assert free("training.eval_steps", lr_scheduler_type="cosine")
    assert not free("training.eval_steps", lr_scheduler_type="reduce_lr_on_plateau")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


SPOILS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no record": (lambda path: (path / "resume.json").unlink(), "has no resume.json or no recipe.yaml, so it is not"),
    "no optimizer": (
        lambda path: (path / "optimizer.pt").unlink(),
        "gone, cut short or changed: optimizer.pt; delete it to resume",
    ),
    "short weights": (
        lambda path: cut(path / "model.safetensors"),
        "gone, cut short or changed: model.safetensors; delete it",
    ),
    "no state": (
        lambda path: (path / "trainer_state.json").unlink(),
        "gone, cut short or changed: trainer_state.json; delete it",
    ),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_part_of_a_checkpoint_is_refused(trained: Path, spoil: str) -> None:
    change, message = SPOILS[spoil]
    change(trained / "run" / "checkpoint-3")
    for resume in ("auto", str(trained / "run" / "checkpoint-3")):
        with pytest.raises(ValueError, match=message):
            resume_from(make(trained, f"resume={resume}", "resume_force=true"))


def test_a_card_may_be_edited(trained: Path) -> None:
    card = trained / "run" / "checkpoint-3" / "README.md"
    card.write_text(card.read_text() + "Trained for a demonstration.\n")
    assert resume_from(make(trained, "resume=auto")) == card.parent


def test_an_unfinished_checkpoint_is_refused_by_its_path_too(trained: Path) -> None:
    unfinished = trained / "run" / UNFINISHED / "checkpoint-4"
    shutil.copytree(trained / "run" / "checkpoint-3", unfinished)
    assert resume_from(make(trained, "resume=auto")) == trained / "run" / "checkpoint-3"
    with pytest.raises(ValueError, match="was not written to its end"):
        resume_from(make(trained, f"resume={unfinished}", output="other"))


def test_a_run_saved_without_its_optimizer_cannot_be_resumed(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    trained_run(make(tmp_path, "training.save_only_model=true"))
    with pytest.raises(ValueError, match=r"holds weights alone \(training.save_only_model\)"):
        resume_from(make(tmp_path, "training.save_only_model=true", "resume=auto"))


def test_the_first_start_stays_on_record_and_later_rows_are_dropped(trained: Path) -> None:
    run = trained / "run"
    manifest, recipe = json.loads((run / "manifest.json").read_text()), (run / "recipe.yaml").read_text()
    rows = (run / "metrics.jsonl").read_text()
    last = json.loads(rows.splitlines()[-1])
    assert last["step"] == 3
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(last | {"step": 4}) + "\n" + '{"step": 5, "los')
    (run / UNFINISHED / "checkpoint-5").mkdir(parents=True)
    forced = make(trained, "resume=auto", "training.learning_rate=0.5", "resume_force=true")
    start_run(forced, {"num_processes": 1}, run / "checkpoint-3", 8, 1)
    assert not (run / UNFINISHED).exists()
    assert (run / "metrics.jsonl").read_text() == rows
    assert (run / "recipe.yaml").read_text() == recipe
    after = json.loads((run / "manifest.json").read_text())
    (entry,) = after.pop("resumed")
    assert manifest == after | {"resumed": []}
    assert entry["step"] == 3
    assert entry["changed"] == {"training.learning_rate": [0.002, 0.5]}
    assert entry["recipe_sha256"] != manifest["recipe_sha256"]
    assert "packages" not in entry


def test_a_start_from_nothing_keeps_no_rows_of_a_run_that_saved_nothing(trained: Path) -> None:
    shutil.rmtree(trained / "run" / "checkpoint-3")
    recipe = make(trained, "resume=auto", "seed=4")
    assert resume_from(recipe) is None
    start_run(recipe, {}, None, 8, 1)
    assert (trained / "run" / "metrics.jsonl").read_text() == ""
    assert json.loads((trained / "run" / "manifest.json").read_text())["seeds"]["seed"] == 4


@pytest.mark.parametrize("line", ["[]", "{}", "x", '{"step": "1"}', '{"step": true}', '{"step": null}'])
def test_a_line_that_is_no_row_is_named(trained: Path, line: str) -> None:
    recipe = make(trained, "resume=auto")
    metrics = trained / "run" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + line + "\n")
    number = len(metrics.read_text().splitlines())
    with pytest.raises(ValueError, match=rf"metrics\.jsonl:{number}"):
        start_run(recipe, {}, resume_from(recipe), 8, 1)


@pytest.mark.parametrize("content", [{}, {"resumed": None}, {"resumed": "x"}])
def test_a_manifest_without_its_list_is_named(trained: Path, content: object) -> None:
    recipe = make(trained, "resume=auto")
    (trained / "run" / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"manifest\.json has no list 'resumed', so it is damaged; delete it"):
        start_run(recipe, {}, resume_from(recipe), 8, 1)


def test_saving_as_often_as_the_resumed_run_asks(tmp_path: Path) -> None:
    """transformers keeps the old run's save_steps, eval_steps and logging_steps."""
    write_dataset(tmp_path / "data")
    common = ["training.max_steps=6", "training.save_total_limit=9"]
    trained_run(make(tmp_path, *common, "training.save_steps=2"))
    for step in (4, 6):
        discard(tmp_path / "run" / f"checkpoint-{step}")
    trained_run(make(tmp_path, *common, "training.save_steps=1", "resume=auto"))
    assert sorted(steps_done(path) for path in (tmp_path / "run").glob("checkpoint-*")) == [2, 3, 4, 5, 6]


def test_the_best_checkpoint_is_kept_and_found_where_it_is(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    own = ["training.max_steps=4", "training.save_steps=1", "training.eval_steps=1", "training.save_total_limit=1"]
    own += ["training.metric_for_best_model=ndcg"]
    trainer = build_trainer(make(tmp_path, *own))
    values = iter([0.1, 0.9, 0.3, 0.2])
    evaluate = trainer.evaluate
    trainer.evaluate = lambda *a, **k: evaluate(*a, **k) | {"eval_ndcg": next(values)}  # type: ignore[method-assign]
    trainer.train()
    best = tmp_path / "run" / "checkpoint-2"
    for step in (2, 4):
        state = json.loads((tmp_path / "run" / f"checkpoint-{step}" / "trainer_state.json").read_text())
        assert state["best_model_checkpoint"] == str(best)
    assert sorted(path.name for path in (tmp_path / "run").glob("*-*")) == ["checkpoint-2", "checkpoint-4"]
    assert not (tmp_path / "run" / UNFINISHED).exists()


def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    def left(limit: int | None, best: str | None) -> list[str]:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        for step in (2, 4, 10, 12):
            (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
        prune(tmp_path / "run", limit, best)
        return [path.name.split("-")[1] for path in sorted((tmp_path / "run").iterdir())]

    assert left(None, None) == left(0, None) == ["10", "12", "2", "4"]
    assert left(9, None) == ["10", "12", "2", "4"]
    assert left(3, None) == ["10", "12", "4"]
    assert left(2, None) == ["10", "12"]
    assert left(2, "elsewhere/checkpoint-2") == ["12", "2"]
    assert left(1, str(tmp_path / "run" / "checkpoint-4")) == ["12", "4"]
    assert left(1, str(tmp_path / "run" / "checkpoint-12")) == ["12"]


def test_a_checkpoint_is_pushed_from_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data")
    trainer = build_trainer(make(tmp_path))
    trainer.args.push_to_hub = True
    pushed: list[str] = []
    monkeypatch.setattr(Trainer, "_push_from_checkpoint", lambda _, folder: pushed.append(folder))
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters())
    trainer.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(trainer.optimizer)
    trainer._save_checkpoint(trainer.model, None)
    assert pushed == [str(tmp_path / "run" / "checkpoint-0")]
    assert last_checkpoint(tmp_path / "run") == Path(pushed[0])


def test_a_saved_datasets_sum_is_of_its_files(tmp_path: Path) -> None:
    def save(name: str, rows: list[dict[str, Any]]) -> Path:
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / name / "train")
        return tmp_path / name

    rows = make_rows(3, 0)
    one, other = save("one", rows), save("other", make_rows(3, 1))
    before = split_sha256(one, "train")
    assert before != split_sha256(other, "train")
    (one / "train" / "cache-0.arrow").write_text("what datasets keeps beside it")
    assert split_sha256(one, "train") == before
    shutil.move(one, tmp_path / "moved")
    assert split_sha256(tmp_path / "moved", "train") == before


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "manifest.json"
    write_whole(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, "new")
    assert path.read_text() == "old"
    write_whole(path, "new")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["new"]


def test_the_place_of_a_dataset_or_a_loop_is_not_taken(tmp_path: Path) -> None:
    """A run has a manifest.json and a recipe.yaml of its own, as they do."""
    write_dataset(tmp_path / "data")
    with pytest.raises(ValueError, match=r"^output=.*data is the dataset, whose manifest.json a run would replace"):
        resume_from(make(tmp_path, output="data"))
    (tmp_path / "loop" / "iteration-0").mkdir(parents=True)
    for more in ([], ["resume=auto"]):
        with pytest.raises(ValueError, match=r"loop holds iteration-0, of stoical self-train or spin: "):
            resume_from(make(tmp_path, *more, output="loop"))
    assert resume_from(make(tmp_path, output="loop/iteration-0")) is None
