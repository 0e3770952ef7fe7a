"""A causal language model whose weights stay as they are, run behind soft prompts.

Dimension letters: R rows, n vectors of a prompt, L tokens after it, H hidden size, V vocabulary.

A row is the prompt, the start token (BOS, or EOS for a tokenizer without one: peft puts a prompt before tokens, so
there must be one), and the text. Rows are padded on the right, where causal attention never looks, so no mask is
needed. (With left padding peft puts the prompt before the padding, and the model silently reads something else.)
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash
from torch import Tensor, nn
from transformers import AutoConfig, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from stoical.build.model import MODEL_ERRORS, build_model
from stoical.config.recipe import ModelSettings, Recipe
from stoical.decoding.sampling import Choose
from stoical.encoding.tokenization import check_vocabulary, inside_of_run, load_tokenizer
from stoical.soft_prompts.settings import ModelOptions

POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")


@dataclass(frozen=True, slots=True)
class Frozen:
    """The model, in eval mode and without gradients of its own, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def embed(self) -> nn.Module:
        """Tokens to embeddings."""
        found: nn.Module = self.model.get_input_embeddings()
        return found

    @property
    def start(self) -> int:
        """The token between the prompt and the text."""
        bos = self.tokenizer.bos_token_id
        return int(self.eos if bos is None else bos)

    @property
    def eos(self) -> int:
        """The token that ends every target."""
        return int(self.tokenizer.eos_token_id)

    @property
    def width(self) -> int:
        """H."""
        return int(self.embed(torch.tensor([[self.start]], device=self.model.device)).shape[-1])

    def prefix(self, prompts: Tensor) -> Tensor:
        """[R, n + 1, H] the prompts [R, n, H] and the start token, in the model's type. Differentiable."""
        start = torch.full((len(prompts), 1), self.start, device=prompts.device)
        embedded = self.embed(start)
        return torch.cat([prompts.to(embedded.dtype), embedded], dim=1)

    def forward(self, prompts: Tensor, fed: Tensor, hidden: bool = False) -> tuple[Tensor, Tensor | None]:
        """float32 logits [R, L + 1, V] of what comes at `fed` [R, L] and after it, and the states they are read from.

        fed: tokens, or embeddings [R, L, H] in their place. Differentiable in prompts and embeddings.
        """
        embedded = fed if fed.is_floating_point() else self.embed(fed)
        inputs = torch.cat([self.prefix(prompts), embedded], dim=1)
        kept = embedded.shape[1] + 1
        output = self.model(inputs_embeds=inputs, logits_to_keep=kept, use_cache=False, output_hidden_states=hidden)
        return _at_least_float32(output.logits), output.hidden_states[-1][:, -kept:] if hidden else None

    def teacher_forced(self, prompts: Tensor, tokens: Tensor, hidden: bool = False) -> tuple[Tensor, Tensor | None]:
        """float32 logits [R, T, V] at each of the `tokens` [R, T], after the prompt and the tokens before it."""
        return self.forward(prompts, tokens[:, :-1], hidden)

    @torch.no_grad()
    def write(self, prompts: Tensor, steps: int, choose: Choose) -> Tensor:
        """[R, steps] the tokens that `choose` takes, each fed before the next, over one growing cache."""
        cache, fed, written = DynamicCache(config=self.model.config), self.prefix(prompts), list[Tensor]()
        for step in range(steps):
            output = self.model(inputs_embeds=fed, past_key_values=cache, use_cache=True, logits_to_keep=1)
            written.append(choose(step, _at_least_float32(output.logits[:, -1])).to(prompts.device))
            fed = self.embed(written[-1][:, None])
        return torch.stack(written, dim=1)

    @torch.no_grad()
    def fingerprint(self) -> str:
        """XXH3 of all weights and buffers, bit for bit."""
        digest = xxhash.xxh3_128()
        for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return str(digest.hexdigest())

    def room(self, vectors: int) -> int | None:
        """How many tokens of text fit behind a prompt; None where the config names no number of positions.

        Raises `ValueError` where none do.
        """
        config = self.model.config.get_text_config()
        most = next((size for name in POSITIONS if (size := getattr(config, name, None))), None)
        if most is not None and vectors + 3 > most:
            raise ValueError(f"vectors={vectors}: the model has {most} positions, so no text fits behind a prompt")
        return None if most is None else int(most) - vectors - 1


def _check_runs(model: PreTrainedModel, name: str) -> None:
    """Raise `ValueError` for a model that cannot be run as it is here: on embeddings, over a cache of all positions."""
    kind = type(model).__name__
    taken = inspect.signature(model.forward).parameters.keys()
    written = inspect.signature(model.prepare_inputs_for_generation).parameters.keys()  # as `generate` decides it
    if not {"inputs_embeds", "logits_to_keep"} <= taken or "inputs_embeds" not in written:
        raise ValueError(f"{name}: {kind} cannot write after embeddings; take another model")
    layers = getattr(model.config.get_text_config(), "layer_types", None) or ()
    if getattr(model, "_is_stateful", False) or "linear_attention" in layers:
        raise ValueError(f"{name}: {kind} keeps a recurrent state; take a model with attention alone")


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def load_frozen(options: ModelOptions, device: torch.device | str | None = None) -> Frozen:
    """The model and its tokenizer, on the GPU if there is one.

    Raises `ValueError` where they cannot be loaded or do not belong together, where the tokenizer has no EOS, and for a
    model that reads token ids beside embeddings, or cannot be run on embeddings and a cache.
    """
    recipe = Recipe(model=ModelSettings(name=options.name, attn_implementation="sdpa", dtype=options.dtype))
    directory = Path(options.name)
    if directory.is_dir() and not (directory / "config.json").is_file():
        way = inside_of_run(options.name)
        raise ValueError(f"model.name={options.name} is a directory without a model: config.json is not in it{way}")
    if not directory.exists() and options.name.startswith(("/", "./", "../", "~")):
        raise ValueError(f"model.name={options.name}: no such directory")
    try:
        config = AutoConfig.from_pretrained(options.name, trust_remote_code=False)
    except MODEL_ERRORS as error:
        raise ValueError(f"model.name={options.name}: {str(error).splitlines()[0]}") from error
    try:
        tokenizer = load_tokenizer(options.name)
    except ValueError as error:
        raise ValueError(f"model.name={options.name}: {error}") from error
    if config.is_encoder_decoder:
        raise ValueError(f"model.name={options.name} is an encoder-decoder: a prompt goes before a decoder's text")
    if getattr(config.get_text_config(), "hidden_size_per_layer_input", None):
        raise ValueError(f"model.name={options.name} embeds tokens again in every layer, and a soft prompt has none")
    check_vocabulary(tokenizer, config.get_text_config().vocab_size)
    model = build_model(recipe, config)
    _check_runs(model, f"model.name={options.name}")
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Frozen(model.to(place).eval().requires_grad_(False), tokenizer)
