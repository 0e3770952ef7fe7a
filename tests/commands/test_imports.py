"""A start in a second: what needs no model is said before torch or transformers is imported. Modules are counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stoical.commands.main import COMMANDS
from tests.support.imported import imports_of
from tests.support.small_data import TINY, write_dataset

HELP = ["--help", "--version", *(f"{name} --help" for name in COMMANDS)]
SHOWN = [
    "recipes",
    "recipes show wordnet_alpha2,small training.max_steps=5",
    "recipes show wordnet_alpha2,qlora",
    "recipes keys",
    "recipes keys training lora quantization",
]
MISTAKES = {  # command -> a part of the one line that it says
    "trian": "Did you mean 'train'?",
    "train recipe=wordnet_alpha22": "Did you mean 'wordnet_alpha2'?",
    "train recipe=/nowhere/mine.yaml": "there is no such file",
    "train recipe=wordnet_alpha2 sed=1": "Did you mean 'seed'?",
    "train recipe=wordnet_alpha2 lr=1": "Did you mean 'training.learning_rate'?",
    "train recipe=wordnet_alpha2 training.max_step=1": "Did you mean 'training.max_steps'?",
    "train recipe=wordnet_alpha2,lora lora.rr=1": "Did you mean 'lora.r'?",
    "train recipe=wordnet_alpha2 loss.beta=2": "loss.beta=2.0 has no effect",
    "train recipe=wordnet_alpha2 mitigations.margin.kind=x": "mitigations.margin.kind",
    "train recipe=wordnet_alpha2 data.path=/nowhere": "there is no dataset directory /nowhere",
    "train recipe=wordnet_alpha2 data.path=/nowhere dry_run=true": "there is no dataset directory /nowhere",
    "train recipe=wordnet_alpha2 data.path={data} prompt.template=wordnt": "prompt.template=wordnt: no such file",
    "self-train recipe=wordnet_beta2": "no self_training section",
    "self-train recipe=wordnet_beta2,bash data.path=/nowhere": "there is no dataset directory /nowhere",
    "evaluate seed=1": "give either checkpoint=DIR",
    "evaluate checkpoint=/nowhere": "checkpoint=/nowhere: no such directory",
    "evaluate checkpoint={run} evl.mode=exact": "Did you mean 'eval.mode'?",
    "evaluate checkpoint={run} data.path=/nowhere": "there is no dataset directory /nowhere",
    "evaluate recipe=wordnet_alpha2 data.path=/nowhere": "there is no dataset directory /nowhere",
    "compare /nowhere /nowhere": "/nowhere has no metrics.json",
    "rank checkpoint=/nowhere": "checkpoint=/nowhere: no such directory",
    "rank checkpoint={run} top_k=0": "top_k=0 must be at least 1",
    "rank checkpoint={run} items=/nowhere": "there is no docID table /nowhere",
    "export checkpoint=/nowhere output=x": "checkpoint=/nowhere: no such directory",
    "dpo checkpoint=/nowhere output=x": "checkpoint=/nowhere: no such directory",
    "dpo checkpoint={run} output=x dpo.bta=1": "Did you mean 'dpo.beta'?",
    "dpo checkpoint={run} output=x data.path=/nowhere": "there is no dataset directory /nowhere",
    "spin checkpoint={run} output=x spin.iterations=0": "spin.iterations=0 must be at least 1",
    "draw-trie recipe=wordnet_alpha2 data.path=/nowhere": "there is no dataset directory /nowhere",
    "capacity parts=ceiling": "Did you mean 'ceilings'?",
    "capacity outpt={data}": "Did you mean 'output'?",
    "capacity data.path={data}": "data.path= is a model's",
    "capacity output={data}": "holds something else than a capacity study",
    "capacity checkpoint={run} quick=true": "quick= is the study's",
    "capacity checkpoint={run} data.path=/nowhere": "there is no dataset directory /nowhere",
    "soft-prompt model.name=x target=y objective=growin": "Did you mean 'growing'?",
    "soft-prompt model.name=x targets=/nowhere": "there is no such file",
    "soft-prompt model.name=x target=y recipe=combind": "Did you mean 'combined'?",
    "histograms recipes=wordnet_ntp data.path=/nowhere": "there is no dataset directory /nowhere",
    "mismatch methods=MIXR": "Did you mean 'MIXER'?",
    "mismatch exact.step=3": "Did you mean 'exact.steps'?",
    "mismatch compat.minimum=2": "compat.minimum=2.0 must lie between 0 and 1",
    "validate /nowhere": "there is no /nowhere",
    "validate {data} recipe=wordnet_alpha2,smal": "Did you mean 'small'?",
    "prepare wordnt": "Did you mean 'wordnet'?",
    "prepare wordnet sede=1": "Did you mean 'seed'?",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and a directory that looks like a checkpoint until weights are read."""
    folder = tmp_path_factory.mktemp("imports")
    write_dataset(folder / "data")
    (folder / "run" / "checkpoint-3").mkdir(parents=True)
    (folder / "run" / "checkpoint-3" / "config.json").write_text("{}")
    (folder / "run" / "checkpoint-3" / "trainer_state.json").write_text(json.dumps({"global_step": 3}))
    (folder / "run" / "checkpoint-3" / "recipe.yaml").write_text(f"data: {{path: {folder / 'data'}}}\n")
    return folder


def test_help_recipes_and_refusals_import_neither_torch_nor_transformers(folder: Path) -> None:
    mistakes = [line.format(data=folder / "data", run=folder / "run") for line in MISTAKES]
    steps = ["python import stoical; dir(stoical)", *HELP, *SHOWN, *mistakes]
    found = dict(zip(steps, imports_of(steps), strict=True))
    assert {step: new for step, (_, new, _) in found.items() if new} == {}
    for step in (*HELP, *SHOWN):
        assert found[step][0] == 0, found[step]
    for step, message in zip(mistakes, MISTAKES.values(), strict=True):
        code, _, said = found[step]
        assert code == 2, step
        assert message in said, (step, said)
        assert said.startswith("error: ") and said.count("\n") == 1, said


def test_the_token_counts_of_validation_import_no_torch(folder: Path) -> None:
    tokens = " ".join(word for word in TINY if word.startswith("tokenizer"))
    (tokenized,) = imports_of([f"validate {folder / 'data'} recipe=wordnet_alpha2,small {tokens}"])
    assert tokenized[:2] == (0, ["datasets", "tokenizers", "transformers"])
    assert "prompt tokens: " in tokenized[2]


def test_names_of_the_library_that_need_no_torch_import_none() -> None:
    steps = ["python import stoical", "python stoical.load_recipe('wordnet_alpha2')", "python stoical.RankingRow"]
    steps += ["python stoical.build_trie([[3, 2], [4, 2]])", "python stoical.TargetSettings()"]
    assert [new for _, new, _ in imports_of(steps)] == [[]] * 5
