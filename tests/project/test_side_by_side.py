"""examples/side_by_side.py: the tables of methods, from runs that are faked, and the commands of its rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples import bash_checks, mitigations, plain_text
from examples.side_by_side import Start, Table, ratio, slug, spread
from stoical.commands import dpo, evaluate, self_train, spin, train
from stoical.config.loading import load_recipe

TABLES = (
    mitigations.TABLE,
    plain_text.TABLE,
    bash_checks.beta_table(),
    bash_checks.text_table(),
    bash_checks.size_table("large"),
)


def fake(metrics: dict[str, dict[int, float]], calls: list[str], fails: str = ""):
    """A method for each name that writes the metric for the seed where a real one would train."""

    def made(name: str):
        def method(start: Start) -> None:
            calls.append(start.output.name)
            if start.output.name == fails:
                raise KeyboardInterrupt
            parts = [""] if name != "better" else ["iteration-1", "iteration-2"]
            for part in parts:
                directory = start.output / part / "eval"
                directory.mkdir(parents=True)
                hit = 0.0 if part == "iteration-1" else metrics[name][start.seed]
                (directory / "found.json").write_text(json.dumps({"hit": hit}))

        return method

    return {name: made(name) for name in metrics}


def faked(root: Path, calls: list[str], fails: str = "") -> Table:
    better, worse, mixed = {0: 0.6, 1: 0.7}, {0: 0.4, 1: 0.1}, {0: 0.6, 1: 0.1}
    metrics = {"base": {0: 0.0, 1: 0.0}, "plain": {0: 0.5, 1: 0.5}, "better": better, "worse": worse, "mixed": mixed}
    methods = fake(metrics, calls, fails)
    return Table(
        root=root,
        base=methods.pop("base"),
        base_steps=7,
        methods=methods,
        evaluation=(),
        read=lambda directory: json.loads((directory / "found.json").read_text()),
        columns={"hit": "hit (↑)"},
    )


@pytest.fixture(autouse=True)
def no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "main", lambda words: None)


def test_a_table_marks_what_is_better_or_worse_in_every_seed(tmp_path: Path) -> None:
    table = faked(tmp_path, []).make([0, 1], steps=3)
    cells = {row.split("|")[1].strip(): row.split("|")[2].strip() for row in table.splitlines()[2:]}
    assert cells == {
        "where all start": "*0.0 ± 0.0*",
        "plain": "50.0 ± 0.0",
        "better": "**65.0 ± 7.1**",
        "worse": "*25.0 ± 21.2*",
        "mixed": "35.0 ± 35.4",
    }
    kept = json.loads((tmp_path / "table.json").read_text())
    assert [run["hit"] for run in kept["rows"]["mixed"]] == [0.6, 0.1]


def test_a_table_ends_with_the_rows_that_no_model_made(tmp_path: Path) -> None:
    """Of the first evaluation, where they have some of the columns."""
    faked(tmp_path, []).make([0], steps=3)
    references = {"random order": {"hit": 0.125, "ndcg": 0.9}, "BM25": {"ndcg": 0.95}}
    (tmp_path / "base-0" / "eval" / "metrics.json").write_text(json.dumps({"references": references}))
    last = faked(tmp_path, []).make([0], steps=3).splitlines()[-1]
    assert [cell.strip() for cell in last.strip("|").split("|")] == ["random order", "12.5", ""]


def test_an_interrupted_table_goes_on_with_the_run_it_was_in(tmp_path: Path) -> None:
    calls: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        faked(tmp_path, calls, fails="worse-0").make([0], steps=3)
    assert calls == ["base-0", "plain-0", "better-0", "worse-0"]
    (tmp_path / "worse-0").mkdir()
    (tmp_path / "worse-0" / "half").touch()
    again: list[str] = []
    faked(tmp_path, again).make([0], steps=3)
    assert again == ["worse-0", "mixed-0"]
    assert not (tmp_path / "worse-0" / "half").exists()


def test_a_ratio_is_taken_seed_by_seed() -> None:
    assert ratio([{"seconds": 2.0}, {"seconds": 9.0}], [{"seconds": 1.0}, {"seconds": 3.0}]) == "2.50 ± 0.71"
    assert spread([0.25], ".1f", 100) == "25.0"


@pytest.mark.parametrize("module", [mitigations, plain_text])
def test_rows_have_folders_of_their_own(module) -> None:
    folders = [slug(name) for name in module.TABLE.methods]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize(
    ("table", "name"),
    [(table, name) for table in TABLES for name in table.methods],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_row_is_a_recipe_that_its_command_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: Table, name: str
) -> None:
    """With as many steps as teacher forcing has, over all of its parts."""
    words: list[str] = []
    for tool in (train, self_train, dpo, spin):
        monkeypatch.setattr(tool, "main", words.extend)
    table.methods[name](Start(tmp_path / "checkpoint-7", tmp_path / "run", seed=4, steps=60))
    settings = dict(word.split("=", 1) for word in words)
    if "recipe" in settings:
        recipe = load_recipe(*words)
        parts = 1 if recipe.self_training is None else recipe.self_training.iterations
    else:
        parts = int(settings.get("spin.iterations", 1))
        assert settings["checkpoint"] == str(tmp_path / "checkpoint-7")
    assert int(settings["training.max_steps"]) * parts == 60
    assert (settings["seed"], settings["training.warmup_steps"]) == ("4", "0.1")


@pytest.mark.parametrize("size", bash_checks.SIZES)
def test_every_row_has_a_model_of_the_tables_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    """The methods name it as well as the start does: the overlay's own size would refuse the start's weights."""
    table, found = bash_checks.size_table(size), []
    for tool in (train, self_train):
        monkeypatch.setattr(tool, "main", lambda words: found.append(load_recipe(*words).model.config))
    for method in (table.base, *table.methods.values()):
        method(Start(tmp_path / "base", tmp_path / "run", seed=0, steps=600))
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    assert [tuple(config[key] for key in keys) for config in found] == [bash_checks.SIZES[size]] * 3


def test_the_shift_is_read_by_position(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({"ndcg": 0.9}))
    kl = {"free_running": [0.3, 0.4], "common": [0.5, 0.6]}
    diagnostics = {"distance": [0.1, 0.2, 0.3, 0.4], "alive": [1.0, 1, 1, None], "off_trie": [0.7], "kl": kl}
    (tmp_path / "diagnostics.json").write_text(json.dumps(diagnostics))
    found = bash_checks.shift(tmp_path)
    assert (found["ndcg"], found["distance@4"], found["alive@4"], found["off_trie@1"]) == (0.9, 0.4, 0, 0.7)
    assert (found["kl@1"], found["kl@2"], found["kl@4"]) == (0.3, 0.4, 0)
