"""Recipes and settings: who wins, and that every bad setting stops the run with its key and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stoical.common.options import keys_of
from stoical.config import loading
from stoical.config.loading import load_recipe, read_layer
from stoical.config.recipe import Recipe
from tests.support.installed import CHECKPOINTING
from tests.support.root import ROOT


def load(*arguments: str) -> Recipe:
    return load_recipe(*arguments)


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe `r` and overlays `one` and `two` that set `seed` and a training argument, each to its own number."""
    (tmp_path / "overlays").mkdir()
    files = {"r": (1, 10), "overlays/one": (2, 20), "overlays/two": (3, 30)}
    for name, (seed, steps) in files.items():
        (tmp_path / f"{name}.yaml").write_text(f"seed: {seed}\ntraining:\n  max_steps: {steps}\n")
    monkeypatch.setattr(loading, "shipped", lambda name: tmp_path)
    return tmp_path


def test_defaults_are_appendix_a1() -> None:
    """Adafactor, lr 1e-5, 50 warm-up steps then cosine, 10k steps, 1024 tokens, batch 64, no decay, clipping at 1."""
    recipe = load()
    assert (recipe.optimizer, recipe.global_batch_size, recipe.prompt.max_length) == ("adafactor", 64, 1024)
    assert recipe.model.name == "mistralai/Mistral-7B-Instruct-v0.3"
    written = {
        "learning_rate": 1e-5,
        "warmup_steps": 50,
        "lr_scheduler_type": "cosine",
        "max_steps": 10_000,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
    }
    assert {key: recipe.training[key] for key in written} == written
    assert recipe.eval.score == "mean"


def test_a_recipe_wins_over_the_defaults(recipes: Path) -> None:
    assert (load().seed, load().training["max_steps"]) == (0, 10_000)
    assert (load("recipe=r").seed, load("recipe=r").training["max_steps"]) == (1, 10)


def test_an_overlay_wins_over_the_recipe(recipes: Path) -> None:
    assert (load("recipe=r,one").seed, load("recipe=r,one").training["max_steps"]) == (2, 20)


def test_a_later_overlay_wins_over_an_earlier_one(recipes: Path) -> None:
    assert load("recipe=r,one,two").seed == 3
    assert load("recipe=r,two,one").seed == 2


def test_the_command_line_wins_over_all(recipes: Path) -> None:
    recipe = load("seed=4", "recipe=r,one,two", "training.max_steps=40")
    assert (recipe.seed, recipe.training["max_steps"]) == (4, 40)


def test_what_no_layer_sets_stays(recipes: Path) -> None:
    recipe = load("recipe=r,one", "training.bf16=false")
    assert recipe.training["learning_rate"] == 1e-5
    assert recipe.training["bf16"] is False


def test_the_run_directory_is_named_after_the_recipe_unless_given(recipes: Path) -> None:
    assert load().output == "runs/default"
    assert load("recipe=r").output == "runs/r"
    assert load("recipe=r,two,one").output == "runs/r-two-one"
    assert load("recipe=r,one", "output=elsewhere").output == "elsewhere"
    assert load("recipe=r,one", "output=007", "data.path=1e3").output == "007"
    assert load("recipe=r,one", "output=007", "data.path=1e3").data.path == "1e3"


def test_a_number_in_scientific_notation_is_a_number() -> None:
    for written, value in {"1e-5": 1e-5, "2E-3": 2e-3, "1": 1, "3.5e0": 3.5}.items():
        rate = load(f"training.learning_rate={written}").training["learning_rate"]
        assert isinstance(rate, (int, float))
        assert rate == value
    assert isinstance(load("training.learning_rate=1e-5").training["learning_rate"], float)
    assert load("loss.item=fractional", "loss.alpha=1e0").loss.alpha == 1.0


def test_null_unsets_and_quotes_keep_a_word() -> None:
    assert load("eval.num_queries=null").eval.num_queries is None
    for word in ("no", "'no'"):
        assert load(f"training.eval_strategy={word}").training["eval_strategy"] == "no"


FRACTIONAL = ["loss.item=fractional", "loss.alpha=2"]
FOUR_BITS = ["quantization.load_in_4bit=true"]
CACHE = "layout=cache"
SOFT = ["soft_prompt.num_virtual_tokens=4", CACHE]
EVERY_NODE = ["loss.token=every_node", "loss.beta=2"]
BAD = {
    "unknown recipe": (["recipe=wordnet_alpha22"], "recipe 'wordnet_alpha22' does not exist. Did you mean 'wordnet_"),
    "recipe from nowhere": (["recipe=zzz"], "recipe 'zzz' does not exist. `stoical recipes` lists them"),
    "unknown overlay": (["recipe=wordnet_ntp,smal"], "overlay 'smal' does not exist. Did you mean 'small'?"),
    "an overlay as recipe": (["recipe=small"], "'small' is an overlay: it goes after a recipe"),
    "a recipe as overlay": (["recipe=wordnet_ntp,wordnet_beta1"], "overlay 'wordnet_beta1' does not exist."),
    "unknown key": (
        ["sed=1"],
        "command line: setting 'sed' does not exist. Did you mean 'seed'? `stoical",
    ),
    "unknown nested key": (["prompt.max_lenght=5"], "command line: setting 'prompt.max_lenght' does not exist."),
    "its suggestion": (["prompt.max_lenght=5"], "Did you mean 'prompt.max_length'?"),
    "unknown loss key": (["loss.alhpa=2"], "Did you mean 'loss.alpha'?"),
    "unknown section": (["promt.max_length=5"], "Did you mean 'prompt.max_length'?"),
    "unknown key of a method": (["mitigations.margin.wieght=1"], "Did you mean 'mitigations.margin.weight'?"),
    "unknown method": (["mitigations.marginn.weight=1"], "Did you mean 'mitigations.margin.weight'?"),
    "unknown training key": (
        ["training.learning_rte=1"],
        "'training.learning_rte' does not exist. Did you mean 'training.learning_rate'?",
    ),
    "text as integer": (["seed=one"], "seed: Value 'one'"),
    "fraction as integer": (["prompt.max_length=1.5"], "prompt.max_length: Value '1.5'"),
    "text as number": ([*FRACTIONAL[:1], "loss.alpha=two"], "loss.alpha: Value 'two'"),
    "text as boolean": (["tokenizer.count_terminator=maybe"], "tokenizer.count_terminator: "),
    "number as list": (["eval.recall_at=5"], "eval.recall_at: "),
    "text in a list of integers": (["eval.recall_at=[1,x]"], "eval.recall_at[1]: Value 'x'"),
    "word for a section": (
        ["loss=fractional"],
        "loss=fractional: 'loss' is a section; `stoical recipes keys loss`",
    ),
    "null for an integer": (["seed=null"], "seed: "),
    "unknown choice": (["loss.item=fractionel"], "loss.item: Invalid value 'fractionel'"),
    "unknown layout": (["layout=packed"], "expected one of ['sequence', 'cache', 'pointwise']"),
    "unfinished YAML": (["training.max_steps=[1"], "command line: training.max_steps=[1: "),
    "an interpolation": (["data.path=${oc.env:HOME}"], "data.path=${oc.env:HOME}: ${...} is not expanded here"),
    "key given twice": (["seed=1", "seed=2"], "seed is given twice, as '1' and '2'"),
    "recipe given twice": (["recipe=wordnet_ntp", "recipe=wordnet_beta1"], "recipe is given twice"),
    "flag": (["--seed=1"], "command line: setting '--seed' does not exist. Did you mean 'seed'?"),
    "nothing before =": (["=3"], "'=3': arguments are key=value"),
    "fractional without alpha": (["loss.item=fractional"], "loss.alpha must be set with loss.item=fractional"),
    "alpha without fractional": (["loss.alpha=2"], "loss.alpha=2.0 has no effect: only loss.item=fractional"),
    "trie without beta": (["loss.token=trie"], "loss.beta must be set with loss.token=trie"),
    "beta with one_hot": (["loss.beta=2"], "loss.beta=2.0 has no effect: only loss.token=trie or every_node"),
    "every_node without visits": (EVERY_NODE, "loss.visits must be set with loss.token=every_node"),
    "visits without every_node": (["loss.visits=mass"], "loss.visits=mass has no effect"),
    "every_node with item": (
        [*EVERY_NODE, "loss.visits=mass", *FRACTIONAL],
        "loss.item=fractional conflicts with loss.token=every_node",
    ),
    "negative alpha": ([*FRACTIONAL[:1], "loss.alpha=-1"], "loss.alpha=-1.0 must be a finite number, 0 or more"),
    "infinite beta": (["loss.token=trie", "loss.beta=.inf"], "loss.beta=inf must be a finite number"),
    "alpha no number": ([*FRACTIONAL[:1], "loss.alpha=.nan"], "loss.alpha=nan must be a finite number"),
    "reach by weights": (
        [*EVERY_NODE, "loss.visits=reach", "loss.normalizer=weights"],
        "loss.visits=reach conflicts with loss.normalizer=weights",
    ),
    "optim with adafactor": (
        ["training.optim=adamw_torch"],
        "training.optim=adamw_torch conflicts with optimizer=adafactor; set optimizer=trainer",
    ),
    "accumulation": (
        ["training.gradient_accumulation_steps=2"],
        "training.gradient_accumulation_steps conflicts with global_batch_size",
    ),
    "output_dir": (["training.output_dir=x"], "training.output_dir conflicts with output"),
    "training seed": (["training.seed=1"], "training.seed conflicts with seed"),
    "eval batch": (["training.per_device_eval_batch_size=1"], "conflicts with eval.batch_size"),
    "resume": (["training.resume_from_checkpoint=x"], "conflicts with resume"),
    "forcing nothing": (["resume_force=true"], "resume_force=true has no effect without resume="),
    "persistent workers": (["training.dataloader_persistent_workers=true"], "shuffle documents as in the first epoch"),
    "saving in the middle of a step": (["training.enable_jit_checkpoint=true"], "it saves in the middle of a step"),
    "column removal": (["training.remove_unused_columns=true"], "is not for a recipe to set"),
    "label names": (["training.label_names=[x]"], "training.label_names is not for a recipe to set"),
    "token averaging": (["training.average_tokens_across_devices=true"], "is not for a recipe to set"),
    "text as training number": (["training.learning_rate=high"], "training.learning_rate='high' has the wrong type"),
    "fraction as training integer": (["training.max_steps=1.5"], "training.max_steps=1.5 has the wrong type"),
    "text as training boolean": (["training.bf16=yep"], "training.bf16='yep' has the wrong type"),
    "boolean as training number": (["training.max_steps=true"], "training.max_steps=True has the wrong type"),
    "bpe without size": (["tokenizer.name=bpe"], "tokenizer.vocab_size goes with tokenizer.name=bpe"),
    "size without bpe": (["tokenizer.vocab_size=500"], "tokenizer.vocab_size goes with tokenizer.name=bpe"),
    "no terminator to leave out": (
        ["tokenizer.terminator=none", "tokenizer.count_terminator=false"],
        "tokenizer.count_terminator=false conflicts with tokenizer.terminator=none",
    ),
    "cache with checkpointing": (
        ["layout=cache", f"training.{CHECKPOINTING}=true"],
        f"layout=cache conflicts with training.{CHECKPOINTING}=true",
    ),
    "cache with checkpointing's old name": (
        ["layout=cache", "training.gradient_checkpointing=true"],
        "layout=cache conflicts with training.gradient_checkpointing=true",
    ),
    "unknown lora field": (["lora.rr=3"], "'lora.rr' does not exist. Did you mean 'lora.r'?"),
    "text as lora number": (["lora.r=x"], "lora.r='x' has the wrong type; peft.LoraConfig wants"),
    "word that peft does not take": (["lora.bias=some"], "lora.bias='some' has the wrong type"),
    "a seed below 0": (["seed=-1"], "seed=-1 must be from 0 to 4294967295"),
    "a seed that is too large": (["seed=4294967296"], "seed=4294967296 must be from 0 to 4294967295"),
    "adapters that go on, and a reference": (
        ["recipe=wordnet_ranking,lora", "loss.ranking=list_dpo", "model.adapter=x"],
        "compares with the model before training, and with model.adapter=x that is not the model below the adapters",
    ),
    "biases that train, and a reference": (
        ["recipe=wordnet_ranking,lora", "loss.ranking=softmax_dpo", "lora.bias=all"],
        "compares with the model before training, whose biases lora.bias=all trains in their place",
    ),
    "no rank": (["lora.r=0"], "lora.r=0 must be at least 1"),
    "task type": (["lora.task_type=SEQ_CLS"], "lora.task_type is not for a recipe to set: stoical trains causal"),
    "adapters that change the base": (
        ["lora.init_lora_weights=pissa"],
        "lora.init_lora_weights=pissa changes the model's own weights",
    ),
    "a start of its own": (["lora.eva_config={rho: 2}"], "lora.eva_config is not for a recipe to set: it changes the"),
    "a loss of its own": (["lora.monteclora_config={}"], "lora.monteclora_config is not for a recipe to set: its part"),
    "an object": (["lora.runtime_config={}"], "lora.runtime_config is not for a recipe to set: peft wants an object"),
    "adam's settings without adam": (
        ["optimizer=trainer", "training.optim=sgd", "training.adam_beta1=0.5"],
        "training.adam_beta1 has no effect with training.optim=sgd; leave it out",
    ),
    "layers for an optimizer that takes all": (
        ["optimizer=trainer", "training.optim_target_modules=[q_proj]"],
        "training.optim_target_modules has no effect with training.optim=adamw_torch_fused; leave it out",
    ),
    "an argument that adam does not read": (
        ["optimizer=trainer", "training.optim=adamw_torch", "training.optim_args='beta1=0.5'"],
        "training.optim_args=beta1=0.5: adamw_torch does not read 'beta1' there (it reads none)",
    ),
    "an argument misspelled": (
        ["optimizer=trainer", "training.optim=sgd", "training.optim_args='nesterov=true, momentun=0.9'"],
        "sgd does not read 'momentun' there (it reads momentum, dampening, nesterov)",
    ),
    "no vectors": (["soft_prompt.num_virtual_tokens=0", CACHE], "soft_prompt.num_virtual_tokens=0 must be at least 1"),
    "vectors not said": (
        ["soft_prompt.prompt_tuning_init=RANDOM", CACHE],
        "soft_prompt.num_virtual_tokens=None must be at least 1",
    ),
    "unknown soft prompt field": (
        [*SOFT, "soft_prompt.num_virtual_token=3"],
        "'soft_prompt.num_virtual_token' does not exist. Did you mean 'soft_prompt.num_virtual_tokens'?",
    ),
    "text as number of vectors": (
        ["soft_prompt.num_virtual_tokens=x", CACHE],
        "soft_prompt.num_virtual_tokens='x' has the wrong type; peft.PromptTuningConfig wants",
    ),
    "a field that the model decides": ([*SOFT, "soft_prompt.token_dim=8"], "soft_prompt.token_dim is not for a recipe"),
    "unknown start of a prompt": (
        [*SOFT, "soft_prompt.prompt_tuning_init=SAMPLE"],
        "'soft_prompt.prompt_tuning_init=SAMPLE' does not exist. Use RANDOM, SAMPLE_VOCAB, TEXT.",
    ),
    "a text to start with, without its text": (
        [*SOFT, "soft_prompt.prompt_tuning_init=TEXT"],
        "soft_prompt.prompt_tuning_init=TEXT goes with soft_prompt.prompt_tuning_init_text",
    ),
    "a text to start with, by a tokenizer that peft cannot load": (
        [
            *SOFT,
            "soft_prompt.prompt_tuning_init=TEXT",
            "soft_prompt.prompt_tuning_init_text=rank",
            "tokenizer.name=bpe",
            "tokenizer.vocab_size=500",
        ],
        "soft_prompt.prompt_tuning_init=TEXT conflicts with tokenizer.name=bpe",
    ),
    "a soft prompt and adapters": ([*SOFT, "lora.r=2"], "soft_prompt conflicts with lora, one of the two is trained"),
    "a soft prompt in another layout": (SOFT[:1], "soft_prompt conflicts with layout=sequence, which cannot put it"),
    "a soft prompt, a row a docID": (
        [*SOFT[:1], "layout=pointwise"],
        "soft_prompt conflicts with layout=pointwise, which cannot put it first",
    ),
    "a soft prompt with noise": (
        [*SOFT, "training.neftune_noise_alpha=5"],
        "soft_prompt conflicts with training.neftune_noise_alpha",
    ),
    "a soft prompt and mixtures of tokens": (
        [*SOFT, "recipe=wordnet_beta2,scheduled_sampling_soft"],
        "soft_prompt conflicts with mitigations.soft_sampling",
    ),
    "a soft prompt and a reference": (
        [*SOFT, "recipe=wordnet_ranking", "loss.ranking=softmax_dpo"],
        "soft_prompt conflicts with loss.ranking=softmax_dpo, which compares with the model before training",
    ),
    "a soft prompt and self-training": (
        [*SOFT, "recipe=wordnet_beta2,bash"],
        "soft_prompt conflicts with self_training, which goes on from",
    ),
    "a prompt to continue that nothing trains": (
        ["model.adapter=x"],
        "model.adapter=x has no effect without the section lora or soft_prompt",
    ),
    "quantization without lora": (FOUR_BITS, "quantization needs lora or soft_prompt"),
    "quantization of nothing": (
        ["lora.r=2", *FOUR_BITS, "model.from_scratch=true"],
        "quantization conflicts with model.from_scratch=true",
    ),
    "unknown quantization field": (
        ["lora.r=2", "quantization.load_in_4bits=true"],
        "'quantization.load_in_4bits' does not exist. Did you mean 'quantization.load_in_4bit'?",
    ),
    "quantization to no bits": (["lora.r=2", "quantization.load_in_4bit=false"], "quantization has no effect without"),
    "unknown 4-bit type": (["lora.r=2", *FOUR_BITS, "quantization.bnb_4bit_quant_type=nf5"], "must be nf4 or fp4"),
    "unknown compute type": (
        ["lora.r=2", *FOUR_BITS, "quantization.bnb_4bit_compute_dtype=bf16"],
        "quantization.bnb_4bit_compute_dtype=bf16 must be one of float32, float16, bfloat16",
    ),
    "number as quantization flag": (
        ["lora.r=2", "quantization.load_in_4bit=4"],
        "quantization.load_in_4bit=4 has the wrong type; transformers.BitsAndBytesConfig wants",
    ),
    "unknown dtype": (["model.dtype=float64"], "expected one of ['float32', 'bfloat16']"),
    "flash attention": (
        ["model.attn_implementation=flash_attention_2"],
        "model.attn_implementation=flash_attention_2 cannot take the mask of a trie; use one of trie_sdpa, sdpa, eager",
    ),
    "batch of none": (["global_batch_size=0"], "global_batch_size=0 must be at least 1"),
    "no length": (["prompt.max_length=0"], "prompt.max_length=0 must be at least 1"),
    "evaluation batch of none": (["eval.batch_size=0"], "eval.batch_size=0 must be at least 1"),
    "evaluation of none": (["eval.num_queries=-1"], "eval.num_queries=-1 must be at least 1"),
    "recall at 0": (["eval.recall_at=[5,0]"], "eval.recall_at=0 must be at least 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_setting_is_told_in_one_line(case: str) -> None:
    arguments, message = BAD[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (what it says is looked at below)
        load(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


GOOD = {
    "adamw": ["optimizer=trainer", "training.optim=adamw_torch"],
    "arguments of sgd": [
        *("optimizer=trainer", "training.optim=sgd", "training.optim_args='nesterov=true, momentum=0.9'"),
    ],
    "arguments of an optimizer with a package": [
        *("optimizer=trainer", "training.optim=galore_adamw", "training.optim_args='rank=64'"),
        "training.optim_target_modules=[q_proj]",
    ],
    "bpe": ["tokenizer.name=bpe", "tokenizer.vocab_size=500"],
    "reach by queries": [*EVERY_NODE, "loss.visits=reach", "loss.normalizer=queries"],
    "cache without checkpointing": ["layout=cache", f"training.{CHECKPOINTING}=false"],
    "alpha of 0": [*FRACTIONAL[:1], "loss.alpha=0"],
    "terminator that does not count": ["tokenizer.count_terminator=false"],
    "integer as number": ["training.learning_rate=1", *FRACTIONAL],
    "an optional training argument": ["training.lr_scheduler_kwargs={num_cycles: 1}"],
    "adapters": ["lora={r: 4, target_modules: all-linear}"],
    "adapters on named modules": ["lora.target_modules=[q_proj]"],
    "gaussian adapters": ["lora.init_lora_weights=gaussian"],
    "adapters over 4 bits": ["lora.r=2", *FOUR_BITS],
    "no adapters": ["lora=null"],
    "a soft prompt": SOFT,
    "a soft prompt over 4 bits": [*SOFT, *FOUR_BITS],
    "a soft prompt that begins as a text": [
        *SOFT,
        "soft_prompt.prompt_tuning_init=TEXT",
        "soft_prompt.prompt_tuning_init_text=rank the hypernyms",
    ],
    "no soft prompt": ["recipe=wordnet_alpha2,soft_prompt", "soft_prompt=null"],
    "recall at none": ["eval.recall_at=[]"],
}


@pytest.mark.parametrize("case", GOOD)
def test_what_does_not_conflict_passes(case: str) -> None:
    assert isinstance(load(*GOOD[case]), Recipe)


def test_an_overlay_is_switched_off_by_null() -> None:
    assert load("recipe=wordnet_alpha2,lora").lora is not None
    assert load("recipe=wordnet_alpha2,lora", "lora=null").lora is None
    assert load("recipe=wordnet_alpha2,qlora", "quantization=null").quantization is None


def test_an_error_in_a_file_names_the_file(recipes: Path) -> None:
    (recipes / "overlays" / "one.yaml").write_text("seed: 1\nsead: 2\n")
    with pytest.raises(ValueError, match=r"overlays/one\.yaml: setting 'sead' does not exist. Did you mean 'seed'"):
        load("recipe=r,one")
    (recipes / "overlays" / "two.yaml").write_text("seed: [")
    with pytest.raises(ValueError, match=r"overlays/two\.yaml: while parsing"):
        load("recipe=r,two")


@pytest.mark.parametrize("text", ["- a\n- b\n", "5"])
def test_a_file_that_is_no_mapping_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.yaml"):
        read_layer(path)


KEYS = [key.name for key in keys_of(Recipe)]


def test_every_setting_is_found() -> None:
    some = {"seed", "data.path", "loss.alpha", "loss.normalizer", "eval.recall_at", "training"}
    assert {*some, "self_training.bash.per", "mitigations.margin.kind"} <= {*KEYS}
    assert len(KEYS) >= 100


@pytest.mark.parametrize("key", KEYS)
def test_no_setting_is_dead(key: str) -> None:
    """Something other than the checks in config must read it, or setting it would do nothing."""
    *sections, name = key.split(".")
    readers = rf"(recipe\.{key.rpartition('.')[0]}|{sections[-1]}|settings)" if sections else "recipe"
    files = [path for path in (ROOT / "stoical").rglob("*.py") if path.parent.name != "config"]
    assert any(re.search(rf"\b{readers}\.{name}\b", path.read_text()) for path in files), f"nothing reads {key}"


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_is_explained(key: str) -> None:
    (found,) = (each for each in keys_of(Recipe) if each.name == key)
    assert re.match(r"\S.{10,}", found.help), f"option(...) of {key} has no help"
    assert not found.help.endswith("."), "help is a phrase"
