"""The model card: README.md of a run and of every checkpoint, for people who get the weights without the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from stoical.config.recipe import Recipe
from stoical.config.self_training import BashSettings, RacSettings
from stoical.config.values import recipe_yaml
from stoical.decoding.choices import Mode
from stoical.objectives.build import MitigationSettings
from stoical.objectives.settings import LossSettings
from stoical.reporting.tables import metrics_table
from stoical.runs.provenance import git_state, package_versions

PACKAGES = ("stoical", "torch", "transformers", "peft", "accelerate")
LAMBDA = {
    "indicator": r"\mathbb{1}[r = 1]",
    "fractional": r"r^{-ALPHA}",
    "stepwise": r"\frac{n_q - r + 1}{n_q}",
}
TARGET = r"\mathrm{CE}\big(\mathbf{y}(%s),\, p_\theta(\cdot \mid q, %s)\big)"
SHARE = r"\sum_{{{which}:\, d_{{r'}} \text{{ begins with }} {prefix}}} {{r'}}^{{-{beta:g}}}"
VISITS = {
    "mass": "v(u) is the sum of μ over the docIDs below node u",
    "uniform": "v(u) = 1",
    "reach": "v(u) is the model's own probability of reaching node u among the listed docIDs, without its gradient",
}
NORMALIZERS = {
    "queries": "the queries of the global batch",
    "points": "the (query, docID, rank) points of the global batch that carry loss",
    "weights": "the summed node weights of the global batch",
}
SCORED: dict[Mode, str] = {
    "exact": "exactly, each under its own prefix",
    "greedy_path": "along the greedy walk down the query's trie",
    "free_greedy_path": "by the paper's greedy proxy",
}
GAINS = {"log": "log(1 + y)", "linear": "y", "exponential": "2^y - 1"}
WEIGHTED = (
    "Queries and documents have weights in the training data: each counts as often as its weight says, in the sums and "
    "in what they are divided by."
)
SELF_TRAINING: dict[str, type[BashSettings] | type[RacSettings]] = {"bash": BashSettings, "rac": RacSettings}
RANK_AWARE = "the rank-aware loss of [Autoregressive Ranking](https://arxiv.org/abs/2601.05588)"
CITATION = """\
@article{rozonoyer2026autoregressive,
  title  = {Autoregressive Ranking: Bridging the Gap Between Dual and Cross Encoders},
  author = {Rozonoyer, Benjamin and You, Chong and Boratko, Michael and Jain, Himanshu and Gupta, Nilesh and
            Bhojanapalli, Srinadh and McCallum, Andrew and Yu, Felix},
  journal = {arXiv preprint arXiv:2601.05588},
  year   = {2026},
}"""


@dataclass(frozen=True, slots=True)
class CardMethod:
    """What trained the weights, and its loss, both as markdown."""

    name: str
    loss: str


@dataclass(frozen=True, slots=True)
class CardSource:
    """What is known before training: the resolved recipe, the dataset's manifest, and whether an adapter is trained.

    method: what trains, where it is not the recipe's rank-aware loss. generated: what the rows of data.generated were
    made from (`generated.json`), where there are any. weighted: rows or documents of the training data have weights.
    """

    recipe: Recipe
    data: Mapping[str, Any]
    adapter: bool
    method: CardMethod | None = None
    generated: Mapping[str, Any] | None = None
    weighted: bool = False

    def render(self, step: int, log_history: Sequence[Mapping[str, float]]) -> str:
        """The card after `step` optimizer steps, with the last evaluation in the trainer's logs, if there was one."""
        name = Path(str(self.recipe.output)).name
        method = self.method or _own_method(self.recipe, self.weighted)
        sections = [
            f"---\n{front_matter(self.recipe, self.adapter)}\n---",
            f"# {name}\n\n{_what(self.recipe, self.adapter, method.name)}",
            f"## Rank with it\n\n{_usage(self.recipe)}",
            f"## The loss\n\n{method.loss}",
            f"## Evaluation\n\n{_evaluation(self.recipe, name, log_history)}",
            f"## Data\n\n{data_section(self.data)}{generated_rows(self.generated)}",
            f"## Training\n\n{training_section(self.recipe, step)}",
            f"## Citation\n\nThe loss and the experiments it comes from:\n\n```bibtex\n{CITATION}\n```",
        ]
        return "\n\n".join(sections) + "\n"


def front_matter(recipe: Recipe, adapter: bool) -> str:
    """The hub's metadata as YAML. No licence: it depends on the base model and the data, which the reader knows."""
    data = ModelCardData(
        library_name="peft" if adapter else "transformers",
        base_model=_hub_id(recipe),
        pipeline_tag="text-ranking",
        tags=["stoical", "ranking", "generative-retrieval"],
    )
    return data.to_yaml().strip()


def _hub_id(recipe: Recipe) -> str | None:
    """The base model's name on the hub; None for random weights and local directories."""
    name = recipe.model.name
    return None if recipe.model.from_scratch or Path(name).exists() or Path(name).is_absolute() else name


def _what(recipe: Recipe, adapter: bool, method: str) -> str:
    base = _hub_id(recipe)
    origin = f"[{base}](https://huggingface.co/{base})" if base else f"`{Path(recipe.model.name).name}`"
    start = f"{recipe.model.name} with random weights" if recipe.model.from_scratch else origin
    small = "A LoRA adapter" if recipe.soft_prompt is None else _soft_prompt(recipe.soft_prompt)
    kind = small if adapter else "A causal language model"
    return (
        f"{kind} that ranks: the probability it gives a document's identifier (docID), after a prompt with the query "
        f"and the candidates if its template shows them, is the document's score. Trained from {start} by stoical "
        f"with {method}."
    )


def _soft_prompt(soft_prompt: Mapping[str, Any]) -> str:
    return f"A soft prompt of {soft_prompt['num_virtual_tokens']} vectors, put before every prompt of a frozen model,"


def _usage(recipe: Recipe) -> str:
    return f"""\
```python
from stoical import Ranker

ranker = Ranker.from_pretrained(".")  # the directory of this file; needs stoical, and recipe.yaml beside the weights
for row in ranker.rank("query", ["first document", "second document", "third document"]):
    print(row.rank, row.docid, row.score)  # score: log-probability in nats
```

The prompt is the template `{Path(recipe.prompt.template).name}`; prompt and longest docID take up to \
{recipe.prompt.max_length} tokens, and a list that does not fit is an error."""


def _own_method(recipe: Recipe, weighted: bool) -> CardMethod:
    """The recipe's loss, with what a ranking loss, its mitigations and the data's weights make of it."""
    loss = recipe.loss
    names = [] if loss.ranking_alone else [RANK_AWARE]
    names += [f"the ranking loss {loss.ranking}"] * (loss.ranking is not None) + recipe.mitigations.chosen
    parts = [] if loss.ranking_alone else [loss_formula(loss)]
    parts += ranking_lines(loss) + [WEIGHTED] * weighted
    return CardMethod(" and ".join(names), "\n\n".join(parts) + mitigation_lines(recipe.mitigations))


def ranking_lines(loss: LossSettings) -> list[str]:
    """The ranking loss that these settings select, as a paragraph in markdown; none without one."""
    ranking = loss.ranking_loss
    if ranking is None:
        return []
    weight = "The loss" if loss.ranking_weight is None else f"Beside it, weighted by {loss.ranking_weight:g},"
    gain = (
        f" The gain is {GAINS[loss.ranking_gain]} of a relevance y, the grade in the data or, without, n_q + 1 - r."
        * ranking.reads_gain
    )
    return [
        f"{weight} is {loss.ranking} ({ranking.source}): {ranking.formula}. It is summed over queries and divided by "
        f"{NORMALIZERS[loss.normalizer]}. s is the {loss.ranking_score} log-probability of a docID's tokens, divided "
        f"by the temperature {loss.ranking_temperature:g}; r is the rank.{gain}"
    ]


def mitigation_lines(mitigations: MitigationSettings) -> str:
    """The methods that are on as a list in markdown, each in one line with its settings; empty without any."""
    lines = [f"- {name}: {_one_line(getattr(mitigations, name))}" for name in mitigations.chosen]
    start = "\n\nWith these mitigations, which are summed over queries and divided by Z as well:\n\n"
    return start + "\n".join(lines) if lines else ""


def _one_line(method: Any) -> str:
    """A method's summary and its settings."""
    given = ", ".join(f"{key}={value}" for key, value in asdict(method).items() if value is not None)
    return f"{method.summary} ({given})"


def generated_rows(made_from: Mapping[str, Any] | None) -> str:
    """What the rows that a model made for its own training are; empty without any."""
    if made_from is None:
        return ""
    method = SELF_TRAINING[made_from["method"]](**made_from["settings"])
    return (
        f"\n\nSelf-training ({made_from['method']}, iteration {made_from['iteration']}): trained on these rows, and on "
        f"rows that the weights before wrote, up to {made_from['share']:g} for every row of the dataset: "
        f"{_one_line(method)}"
    )


def loss_formula(loss: LossSettings) -> str:
    """The loss that these settings select, as mathematics in markdown (sections 4.2, 4.3 and Appendix D)."""
    where = f"Ranks r start at 1. Z counts {NORMALIZERS[loss.normalizer]}."
    if loss.token == "every_node":
        assert loss.visits is not None
        share = SHARE.format(which="r'", prefix="u,v", beta=loss.beta)
        terms = r"\sum_{u} v(u)\, " + TARGET % ("u", "u")
        nodes = (
            f"over the inner nodes u of the docIDs' prefix tree; μ(r) = r^-{loss.beta:g}, and {VISITS[loss.visits]}."
        )
        return _display(terms, rf"\mathbf{{y}}_v(u) \propto {share}") + f"{nodes} {where}"
    lam = r"\lambda(r) = " + LAMBDA[loss.item].replace("ALPHA", f"{loss.alpha or 0:g}")
    terms = r"\sum_r \lambda(r) \sum_t "
    if loss.token == "one_hot":
        return _display(terms + r"-\log p_\theta(d_{r,t} \mid q, d_{r,<t})", lam) + where
    share = SHARE.format(which=r"r' \ge r", prefix="d_{r,<t},v", beta=loss.beta)
    return _display(terms + TARGET % ("r,t", "d_{r,<t}"), lam, rf"\mathbf{{y}}_v(r,t) \propto {share}") + where


def _display(terms: str, *definitions: str) -> str:
    """The loss as the sum of `terms` over queries, divided by Z, and what the symbols in them are."""
    loss = r"\mathcal{L} = \frac{1}{Z} \sum_q " + terms
    return "\n\n".join(f"$${line}$$" for line in (loss, *definitions)) + "\n\n"


def _evaluation(recipe: Recipe, name: str, log_history: Sequence[Mapping[str, float]]) -> str:
    found = [log for log in log_history if "eval_ndcg" in log]
    if not found:
        return "Not evaluated during training."
    metrics = {key.removeprefix("eval_"): value for key, value in found[-1].items() if key.startswith("eval_")}
    metrics["num_queries"] = int(metrics["num_queries"])
    counted = recipe.tokenizer.counts_terminator
    return (
        f"{metrics_table([(name, metrics)])}\n\n%, at step {int(found[-1]['step'])}, on {metrics['num_queries']} "
        f"queries of the test split. Documents are scored {SCORED[recipe.eval.mode]}, by the {recipe.eval.score} "
        f"log-probability of their docID's tokens, the terminator {'included' if counted else 'left out'}. CVR: how "
        "often a document off the list scores above one on it."
    )


def data_section(manifest: Mapping[str, Any]) -> str:
    """What a card says of a dataset: the facts of its manifest, a line each."""
    facts = {key: manifest[key] for key in ("name", "version", "source", "licence", "options") if manifest.get(key)}
    lines = [f"- {key}: {_plain(value)}" for key, value in facts.items()]
    lines += [f"- {split}: {_plain(counts)}" for split, counts in manifest.get("splits", {}).items()]
    return "\n".join(lines) or "The dataset's manifest says nothing about it."


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(item)}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def training_section(recipe: Recipe, step: int) -> str:
    """What a card says of a training after `step` steps: batch, seed, versions, commit, and the resolved recipe."""
    unit = "queries" if recipe.encoder is None else "pairs"
    installed = package_versions()
    versions = ", ".join(f"{name} {installed[name]}" for name in PACKAGES)
    git = git_state()
    changed = ", with changes that are not committed" if git.get("dirty") else ""
    commit = f"\n- commit of stoical: {git['commit']}{changed}" if git else ""
    return (
        f"- {step:,} steps of {recipe.global_batch_size} {unit}, seed {recipe.seed}\n- {versions}{commit}\n\n"
        f"<details><summary>The recipe, resolved</summary>\n\n```yaml\n{recipe_yaml(recipe)}```\n\n</details>"
    )
