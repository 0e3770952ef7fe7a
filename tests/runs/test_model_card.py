"""The model card: the loss in mathematics, the run's facts, code that runs; and pushing, which can fail."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from types import SimpleNamespace

import pytest
import transformers.trainer
from accelerate.state import AcceleratorState, GradientState
from huggingface_hub import ModelCard
from omegaconf import OmegaConf

from stoical.commands import train
from stoical.config.loading import list_recipes, load_recipe
from stoical.config.recipe import EvalSettings, Recipe
from stoical.config.self_training import BashSettings, RacSettings
from stoical.objectives.build import MitigationSettings
from stoical.objectives.mitigations.consistency import ConsistencySettings
from stoical.objectives.mitigations.margin import MarginSettings
from stoical.objectives.mitigations.scheduled_sampling import ScheduledSamplingSettings
from stoical.objectives.mitigations.unlikelihood import UnlikelihoodSettings
from stoical.runs.model_card import CardSource, front_matter, loss_formula
from tests.support.small_data import TINY, write_dataset

ARXIV = "https://arxiv.org/abs/2601.05588"
NEEDED = {"margin": {"margin": 1.5}, "consistency": {"free_run": "sampled"}, "soft_sampling": {"half_step": 300}}


def words(directory, output, **settings):
    values = dict(word.split("=", 1) for word in TINY) | {"training.save_steps": "3", "training.eval_steps": "2"}
    values |= {"recipe": "wordnet_alpha2,small", "data.path": directory / "data", "output": directory / output}
    return [f"{key}={value}" for key, value in (values | settings).items()]


def run(*arguments):
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    train.main(*arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("card")
    write_dataset(directory / "data")
    manifest = {"name": "tiny", "licence": "CC0", "splits": {"train": {"queries": 2400, "mean_docs": 3.5}}}
    (directory / "data" / "manifest.json").write_text(json.dumps(manifest))
    (directory / "prompt.yaml").write_text('prompt: "{query} from {docs}:"\ndoc: "{docid}"\ndelimiter: ", "\n')
    run(words(directory, "mine", **{"prompt.template": directory / "prompt.yaml"}))
    return directory / "mine"


def test_the_card_tells_the_run(trained):
    text = (trained / "README.md").read_text()
    assert text == (trained / "checkpoint-3" / "README.md").read_text()
    logs = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    last = [log for log in logs if "eval_ndcg" in log][-1]
    row = next(line for line in text.splitlines() if line.startswith("| mine"))
    assert [float(cell) for cell in row.split("|")[2:4]] == pytest.approx(
        [100 * last["eval_cvr"], 100 * last["eval_ndcg"]], abs=0.006
    )
    assert "at step 3, on 6 queries of the test split" in text
    assert "- licence: CC0" in text
    assert "- train: queries 2,400, mean docs 3.5" in text
    assert "- 3 steps of 8 queries, seed 0" in text
    recipe = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert recipe is not None
    assert recipe[1] == (trained / "recipe.yaml").read_text()
    assert OmegaConf.create(recipe[1]).loss.alpha == 2.0


def test_the_last_evaluation_counts():
    logs = [{"eval_ndcg": value, "eval_num_queries": 9.0, "step": step} for step, value in ((5, 0.5), (10, 0.75))]
    text = CardSource(Recipe(output="runs/x"), {}, adapter=False).render(10, [*logs, {"loss": 1.0, "step": 10}])
    assert "75.00" in text
    assert "50.00" not in text
    assert "%, at step 10, on 9 queries" in text


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("exact", "exactly"),
        ("greedy_path", "along the greedy walk"),
        ("free_greedy_path", "by the paper's greedy proxy"),
    ],
)
def test_the_card_says_how_documents_were_scored(mode, said):
    recipe = Recipe(output="runs/x", eval=EvalSettings(mode=mode))
    text = CardSource(recipe, {}, adapter=False).render(5, [{"eval_ndcg": 0.5, "eval_num_queries": 9.0, "step": 5}])
    assert f"Documents are scored {said}" in text


def test_its_code_ranks_with_the_checkpoint(trained, monkeypatch, capsys):
    """With the prompt's own file gone, as it is for whoever gets the checkpoint."""
    template = trained.parent / "prompt.yaml"
    assert "{query} from {docs}" in template.read_text()
    template.rename(trained.parent / "elsewhere.yaml")
    code = re.search(r"```python\n(.*?)```", (trained / "checkpoint-3" / "README.md").read_text(), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(trained / "checkpoint-3")
    exec(code[1], {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]


def test_metadata_is_the_hubs_and_claims_no_licence(trained, tmp_path):
    card = ModelCard((trained / "README.md").read_text())
    assert card.data.library_name == "transformers"
    assert (card.data.base_model, card.data.license) == (None, None)
    assert "stoical" in card.data.tags
    assert "base_model: mistralai/Mistral-7B-Instruct-v0.3" in front_matter(Recipe(), adapter=True)
    assert "library_name: peft" in front_matter(Recipe(), adapter=True)
    local = Recipe()
    local.model.name = str(tmp_path)
    assert "base_model" not in front_matter(local, adapter=False)


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_has_a_card_with_closed_formulas(name):
    text = CardSource(load_recipe(f"recipe={name}"), {}, adapter=False).render(0, [])
    assert "Not evaluated during training." in text
    assert "manifest says nothing" in text
    for formula in re.findall(r"\$\$(.*?)\$\$", text):
        assert formula.count("{") == formula.count("}")
        assert "None" not in formula
        assert "ALPHA" not in formula


def test_formulas_are_those_of_the_settings():
    def formula(recipe):
        return loss_formula(load_recipe(f"recipe={recipe}").loss)

    assert r"\sum_t -\log p_\theta(d_{r,t} \mid q, d_{r,<t})$$" in formula("wordnet_ntp")
    assert r"\lambda(r) = \mathbb{1}[r = 1]$$" in formula("wordnet_ntp")
    assert r"\lambda(r) = r^{-3}$$" in formula("wordnet_alpha3")
    assert r"\lambda(r) = \frac{n_q - r + 1}{n_q}$$" in formula("wordnet_stepwise")
    both = formula("wordnet_alpha2_beta25")
    assert r"\lambda(r) = r^{-2}$$" in both
    assert r"\sum_{r' \ge r:\, d_{r'} \text{ begins with } d_{r,<t},v} {r'}^{-25}$$" in both
    every = formula("wordnet_every_node")
    assert r"\sum_{r':\, d_{r'} \text{ begins with } u,v} {r'}^{-2}$$" in every
    assert "v(u) = 1" in every
    assert r"\lambda" not in every
    assert "Z counts the (query, docID, rank) points" in both


def test_without_mitigations_the_card_names_none():
    text = CardSource(load_recipe("recipe=wordnet_beta2"), {}, adapter=False).render(0, [])
    assert "itigation" not in text.partition("<details>")[0]
    assert "Self-training" not in text


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(MitigationSettings)])
def test_every_mitigation_that_is_on_is_in_the_card(name):
    """One that is added without a summary fails here."""
    section = typing.get_args(typing.get_type_hints(MitigationSettings)[name])[0](**NEEDED.get(name, {}))
    recipe = Recipe(output="runs/x", mitigations=MitigationSettings(**{name: section}))
    text = CardSource(recipe, {}, adapter=False).render(0, []).partition("<details>")[0]
    assert f"by stoical with the rank-aware loss of [Autoregressive Ranking]({ARXIV}) and {name}." in text
    (line,) = [line for line in text.splitlines() if line.startswith(f"- {name}: ")]
    assert section.summary in line
    assert line.count("`") % 2 == 0
    for key, value in dataclasses.asdict(section).items():
        assert value is None or f"{key}={value}" in line


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (ScheduledSamplingSettings(), "of the prefix reached"),
        (ScheduledSamplingSettings(target="gold_position"), "has at that position"),
        (ConsistencySettings(mode="literal"), "KL(p_t^tf || p_t^ar)"),
        (ConsistencySettings(mode="marginal"), "KL(P_t^pi || P_t^theta)"),
        (UnlikelihoodSettings(), "-log P_valid(n)"),
        (UnlikelihoodSettings(tokens="siblings"), "log(1 - p(c | n))"),
        (MarginSettings(kind="logistic", prefix=True), "-log sigmoid(s(d) - s(d-))"),
    ],
)
def test_a_mitigations_line_is_that_of_its_settings(section, says):
    assert says in section.summary


@pytest.mark.parametrize(("method", "settings"), [("bash", BashSettings(beta=0.3)), ("rac", RacSettings())])
def test_rows_that_a_model_made_are_in_the_card(method, settings):
    made_from = {"method": method, "settings": dataclasses.asdict(settings), "share": 0.5, "iteration": 2}
    text = CardSource(Recipe(output="runs/x"), {}, adapter=False, generated=made_from).render(0, [])
    assert f"Self-training ({method}, iteration 2)" in text
    assert "up to 0.5 for every row" in text
    assert settings.summary in text
    assert method == "rac" or "beta=0.3" in text


class Hub:
    """Stands for the hub: keeps what is uploaded, or fails."""

    def __init__(self, reachable=True, writable=True):
        self.reachable, self.writable, self.uploads = reachable, writable, []

    def create_repo(self, name, **kwargs):
        if not self.reachable:
            raise ConnectionError("no network")
        return SimpleNamespace(repo_id=f"me/{name}")

    def upload_folder(self, repo_id, folder_path, **kwargs):
        if not self.writable:
            raise OSError("quota exceeded")
        self.uploads.append((repo_id, folder_path))


def pushed(monkeypatch, trained, output, hub, strategy="end"):
    monkeypatch.setattr(transformers.trainer, "hf_api", lambda: hub)
    settings = {"training.push_to_hub": "true", "training.hub_strategy": strategy, "training.max_steps": "1"}
    run(words(trained.parent, output, **settings))
    return trained.parent / output


def test_a_push_has_weights_recipe_and_our_card(monkeypatch, trained):
    hub = Hub()
    directory = pushed(monkeypatch, trained, "pushed", hub)
    assert hub.uploads == [("me/pushed", str(directory))]
    assert "Ranker.from_pretrained" in (directory / "README.md").read_text()
    assert (directory / "model.safetensors").is_file()
    assert (directory / "recipe.yaml").is_file()


def test_a_push_that_fails_does_not_fail_the_run(monkeypatch, trained, caplog):
    directory = pushed(monkeypatch, trained, "kept", Hub(writable=False))
    assert f"hf upload me/kept {directory} --exclude" in caplog.text
    assert "OSError: quota exceeded" in caplog.text
    assert (directory / "model.safetensors").is_file()


def test_a_push_that_fails_in_the_middle_of_training_does_not_stop_it(monkeypatch, trained, caplog):
    directory = pushed(monkeypatch, trained, "going_on", Hub(writable=False), strategy="every_save")
    assert caplog.text.count("OSError: quota exceeded") == 2  # at the checkpoint, and at the end
    assert (directory / "checkpoint-1" / "README.md").is_file()


def test_a_hub_out_of_reach_is_told_of_before_training(monkeypatch, trained):
    with pytest.raises(ValueError, match=r"push_to_hub=true: no network; log in with `hf auth login`"):
        pushed(monkeypatch, trained, "offline", Hub(reachable=False))


def test_tokens_are_kept_out_of_recipes():
    with pytest.raises(
        ValueError, match="hub_token=hf_secret is not for a recipe to set: it would be written into the run"
    ):
        load_recipe("recipe=wordnet_ntp", "training.hub_token=hf_secret")
