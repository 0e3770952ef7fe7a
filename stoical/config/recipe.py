"""A recipe's settings as typed dataclasses: every key with its type, its default and a line of help.

The defaults are the paper's (Appendix A.1, WordNet): Mistral-7B-Instruct-v0.3, Adafactor with beta1 = 0.9, 10,000
steps. `stoical recipes keys` prints what stands here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from stoical.common.options import option
from stoical.config.encoders import CrossEncoderSettings, DualEncoderSettings, EncoderSettings
from stoical.config.self_training import SelfTrainingSettings
from stoical.decoding.choices import Mode, Reduction
from stoical.encoding.tokenized import Terminator
from stoical.models.layouts import MASKABLE, TRIE_ATTENTION, Layout
from stoical.objectives.build import MitigationSettings
from stoical.objectives.settings import LossSettings

DType = Literal["float32", "bfloat16"]


@dataclass
class DataSettings:
    """Where the rows come from."""

    path: str = option(
        "data/wordnet", "a dataset directory with train, test and manifest.json (stoical prepare makes one)"
    )
    generated: str | None = option(
        None, "a file of rows made from its train split, which are trained on as well (stoical self-train sets it)"
    )
    num_negatives: int = option(
        0,
        "docIDs that each training query is compared with, beside its own: the row's negatives, and others of the "
        "training split, drawn again every epoch. No prompt holds them",
    )


@dataclass
class PromptSettings:
    """What the model reads before a docID."""

    template: str = option(
        "wordnet", "wordnet, esci, compact, codes, plain (the query alone), or the path of a YAML file of your own"
    )
    max_length: int = option(1024, "tokens of the prompt and the longest docID together; documents that do not fit go")


@dataclass
class TokenizerSettings:
    """How texts become token ids."""

    name: str = option(
        "mistralai/Mistral-7B-Instruct-v0.3",
        "a hub id or a directory; or bpe: a BPE of vocab_size tokens trained on the dataset, saved with the model",
    )
    vocab_size: int | None = option(None, "with name=bpe: how many tokens")
    terminator: Terminator = option("eos", "what ends a docID, so that `cat` is a leaf beside `cats`")
    count_terminator: bool = option(True, "whether the terminator counts in the loss and in the mean log-probability")

    @property
    def counts_terminator(self) -> bool:
        """True where docIDs have a terminator that counts."""
        return self.terminator != "none" and self.count_terminator


@dataclass
class ModelSettings:
    """The model that is trained, or that lies below the adapters."""

    name: str = option(
        "mistralai/Mistral-7B-Instruct-v0.3",
        "a hub id or a directory; with from_scratch=true an architecture, such as mistral",
    )
    from_scratch: bool = option(False, "random weights, in the shape that config gives, instead of saved ones")
    config: dict[str, Any] = option(None, "fields of the model's PretrainedConfig to change", factory=dict)
    adapter: str | None = option(
        None, "with the section lora or soft_prompt: a checkpoint whose adapters or prompt to continue from"
    )
    attn_implementation: str = option(TRIE_ATTENTION, f"the attention: {', '.join(MASKABLE)}")
    dtype: DType = option(
        "float32",
        "of the weights. bfloat16 is for those below adapters or a soft prompt: a small learning rate does not move it",
    )


@dataclass
class EvalSettings:
    """How documents are scored, and what is measured."""

    mode: Mode = option(
        "exact",
        "exact: every docID under its own prefix. greedy_path: along one greedy rollout in the query's trie. "
        "free_greedy_path: the paper's proxy (section 5.1), along one without a trie",
    )
    score: Reduction = option("mean", "a docID's score: the mean or the sum of its tokens' log-probabilities")
    recall_at: list[int] = option(None, "the cutoffs k of R@k", factory=lambda: [1, 2, 3, 4, 5])
    metrics: list[str] = option(
        None,
        "the field's metrics beside the paper's: graded_ndcg, graded_ndcg@K, mrr, map, precision@K, standard_recall@K, "
        "kendall_tau",
        factory=list,
    )
    gains: str | None = option(
        None,
        "what the data's grades gain in graded_ndcg: linear (null, too), exponential (2^grade - 1), or a gain for each "
        "grade, such as 3:1,2:0.1,1:0.01,0:0",
    )
    relevant_above: float = option(
        0.0, "documents with a higher grade are relevant, in mrr, map, precision and standard_recall"
    )
    batch_size: int = option(8, "queries scored in one forward")
    num_queries: int | None = option(
        500, "queries evaluated during training, a fixed sample of the test split (null: all)"
    )
    num_beams: int = option(5, "width of the constrained beam search that free_run_ndcg is measured on")
    shuffles: int = option(
        1, "of stoical evaluate: orders of the prompt's documents to evaluate under, for their spread and flip rates"
    )
    calibration: bool = option(
        False,
        "probabilities among a query's documents beside the loss's target: calibration error, total variation, a "
        "fitted temperature",
    )
    diagnostics: bool = option(
        False, "by position, how far the model is from the recipe's target under given and under its own prefixes"
    )
    generation: bool = option(
        False, "for plain text: what greedy decoding writes without a trie, beside the query's first document"
    )


def paper_training() -> dict[str, Any]:
    """Appendix A.1, as `transformers.TrainingArguments` fields."""
    return {
        "max_steps": 10_000,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 50,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": True,
        "per_device_train_batch_size": 8,
        "logging_steps": 10,
        "eval_strategy": "steps",
        "eval_steps": 500,
        "save_steps": 500,
        "save_total_limit": 3,
    }


@dataclass
class Recipe:
    """Everything that defines a run."""

    output: str | None = option(None, "the run directory (null: runs/<recipe>)")
    seed: int = option(0, "of weights made from scratch, of shuffles and of samples")
    global_batch_size: int = option(
        64,
        "queries a step, over all processes and accumulation steps; with a dual or cross encoder (query, docID) pairs",
    )
    max_tokens_per_micro_batch: int | None = option(
        None,
        "cut a step's queries, sorted by length, into micro-batches of at most so many tokens (padding counted), and "
        "training.per_device_train_batch_size queries; a longer query is one of its own (null: by number alone)",
    )
    optimizer: Literal["adafactor", "trainer"] = option(
        "adafactor", "adafactor is the paper's, with beta1 = 0.9; trainer leaves the choice to training.optim"
    )
    layout: Layout = option(
        "sequence",
        "of a forward pass: sequence (all prompts and nodes at once), cache (prompts first), pointwise (a row a docID)",
    )
    resume: str | None = option(
        None, "auto: the run directory's last checkpoint; or the path of one. Refused for another recipe or dataset"
    )
    resume_force: bool = option(False, "continue although recipe, dataset or number of processes have changed")
    dry_run: bool = option(False, "show the recipe, prompts, tries and memory; do not train")
    data: DataSettings = field(default_factory=DataSettings)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    lora: dict[str, Any] | None = option(
        None, "peft.LoraConfig fields: adapters are trained, the model below stays as it is (overlay lora)"
    )
    soft_prompt: dict[str, Any] | None = option(
        None,
        "peft.PromptTuningConfig fields: the embeddings of virtual tokens before every prompt are trained, the model "
        "stays as it is (overlay soft_prompt)",
    )
    quantization: dict[str, Any] | None = option(
        None, "transformers.BitsAndBytesConfig fields, for the model below adapters (overlay qlora) or a soft prompt"
    )
    loss: LossSettings = field(default_factory=LossSettings)
    mitigations: MitigationSettings = field(default_factory=MitigationSettings)
    self_training: SelfTrainingSettings | None = None
    eval: EvalSettings = field(default_factory=EvalSettings)
    training: dict[str, Any] = option(
        None, "transformers.TrainingArguments fields, under their own names", factory=paper_training
    )
    dual_encoder: DualEncoderSettings | None = None
    cross_encoder: CrossEncoderSettings | None = None

    @property
    def encoder(self) -> EncoderSettings | None:
        """The lookup encoder that is trained in place of a language model, if any."""
        return self.dual_encoder or self.cross_encoder
