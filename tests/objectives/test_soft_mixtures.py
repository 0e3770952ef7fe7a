"""Soft and straight-through scheduled sampling: plain forwards in float64, hand formulas, hard feeding as the limit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PromptTuningConfig, TaskType, get_peft_model
from torch.nn.parallel import DistributedDataParallel
from transformers import GemmaConfig, GemmaForCausalLM, GPT2Config, GPT2LMHeadModel, GraniteConfig, GraniteForCausalLM

from stoical.config.loading import load_recipe
from stoical.models.adapters import add_lora
from stoical.models.forward import node_logprobs
from stoical.models.mixtures import Mixture, check_mixable, embedded
from stoical.objectives.mitigations.gold_position import gold_inputs, mixed_batch
from stoical.objectives.mitigations.schedules import sharpness
from stoical.objectives.mitigations.soft_mixtures import (
    SoftSampling,
    SoftSamplingSettings,
    candidates,
    mixture_weights,
    soft_prefixes,
)
from stoical.objectives.objective import StepContext, weighted_nll
from stoical.objectives.stoical_loss import SToICaLLoss
from stoical.training.build import build_trainer
from stoical.trie.node_weights import TargetSettings
from tests.support.gradients import first_gradient
from tests.support.packed import pack
from tests.support.random_queries import ragged_queries, random_query
from tests.support.tiny_model import VOCAB, tiny_model
from tests.support.tiny_recipe import tiny_recipe

PATH_LOSSES = {"one_hot": TargetSettings(), "trie": TargetSettings(token="trie", beta=2.0)}
KINDS = ["soft", "straight_through"]
OVERLAYS = ["scheduled_sampling_soft", "scheduled_sampling_straight_through"]


def context_of(model, batch, layout="sequence"):
    def forward(other, mixture=None):
        return node_logprobs(model, other, layout, mixture=mixture, keep="logits")

    return StepContext(batch, forward(batch), 0, forward, forward)


def sampling(gold=0.0, **settings):
    made = SoftSamplingSettings("constant", minimum=gold, **settings)
    made.check()
    return SoftSampling(made)


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def gpt2(**config):
    """Tied embeddings, and LayerNorm, which computes in float64 where the weights are."""
    torch.manual_seed(0)
    shape = {"vocab_size": VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.4}
    return GPT2LMHeadModel._from_config(GPT2Config(**shape | config), attn_implementation="trie_sdpa").eval()


def gemma():
    """Its embedding module multiplies by the root of the hidden size."""
    torch.manual_seed(0)
    shape = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2, "head_dim": 8}
    config = GemmaConfig(**shape, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2)
    return GemmaForCausalLM._from_config(config, attn_implementation="trie_sdpa").eval()


def granite():
    """It multiplies what the embedding module gives."""
    torch.manual_seed(0)
    shape = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2}
    config = GraniteConfig(**shape, num_attention_heads=4, num_key_value_heads=2, embedding_multiplier=3.0)
    return GraniteForCausalLM._from_config(config, attn_implementation="trie_sdpa").eval()


MODELS = {
    "mistral": tiny_model,
    "tied": lambda: tiny_model(tie_word_embeddings=True),
    "eager": lambda: tiny_model("eager"),
    "gpt2": gpt2,
    "gemma": gemma,
    "granite": granite,
    "lora": lambda: add_lora(tiny_model(), {"r": 2, "target_modules": ["q_proj", "embed_tokens"]}, seed=0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count_terminator", [True, False])
@pytest.mark.parametrize("loss", PATH_LOSSES.values(), ids=PATH_LOSSES)
def test_gold_probability_one_is_teacher_forcing_bit_for_bit(loss, count_terminator, kind):
    found = []
    for objective in (sampling(1.0, mixture=kind), SToICaLLoss(loss)):
        model = tiny_model()
        result = objective(context_of(model, pack(ragged_queries(count_terminator=count_terminator), loss)))
        found.append((result.loss_sum, gradient(model, result.loss_sum)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("layout", ["sequence", "cache"])
@pytest.mark.parametrize("name", MODELS)
def test_a_mixture_of_one_token_is_the_token(name, layout):
    """To the bit in the loss; in the gradient, but for the order of sums. Scales and adapters of embeddings count."""
    model, batch = MODELS[name](), pack(ragged_queries())
    chain = gold_inputs(batch)
    fed = torch.randint(3, VOCAB, chain.shape, generator=torch.Generator().manual_seed(0))
    mixed = mixed_batch(batch, chain, fed)
    tokens, place = fed.unique(return_inverse=True)
    column = mixed.prompt_width + batch.node_depth[chain] - 1
    mixture = Mixture(batch.node_row[chain], column, tokens, torch.eye(len(tokens))[place])
    others = replace(mixed, input_ids=mixed.input_ids.clone())  # the tokens beneath must not matter
    others.input_ids[mixture.row, column] = 5
    found, expected = (
        weighted_nll(node_logprobs(model, packed, layout, mixture=mix).logprobs, mixed.node_weights)
        for packed, mix in ((others, mixture), (mixed, None))
    )
    assert torch.equal(found, expected)
    ours, theirs = gradient(model, found), gradient(model, expected)
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_mixing_is_done_in_float32_under_autocast():
    model, ids = tiny_model(), torch.tensor([[5, 6, 7]])
    place = torch.tensor([0])
    with torch.autocast("cpu", torch.bfloat16):
        found = embedded(model, ids, Mixture(place, place, torch.tensor([9, 8]), torch.tensor([[0.25, 0.75]])))
    nine, eight = model.get_input_embeddings().weight[[9, 8]]
    assert found.dtype == torch.float32
    assert torch.allclose(found[0, 0], 0.25 * nine + 0.75 * eight, rtol=1e-6)
    assert torch.equal(found[:, 1:], model.get_input_embeddings()(ids[:, 1:]))


def children_of(query, prefix):
    return sorted(
        {ids[len(prefix)] for ids in query.docid_ids if ids[: len(prefix)] == prefix and len(ids) > len(prefix)}
    )


def plain_loss(model, queries, loss, alpha, kind, source, through=True):
    """Two ordinary forwards a query, every input of the top docID mixed, in the model's precision."""
    total = 0.0
    for query in queries:
        batch = pack([query], loss)
        path = query.docid_ids[0][:-1]
        first = len(query.prompt_ids) - 1
        logits = model(input_ids=torch.tensor([[*query.prompt_ids, *path]])).logits[0, first:]
        embed = model.get_input_embeddings()
        inputs = [embed(torch.tensor(query.prompt_ids))]
        for step in range(len(path)):
            tokens = torch.arange(VOCAB) if source == "free" else torch.tensor(children_of(query, path[:step]))
            z = logits[step, tokens]
            z = z if through else z.detach()
            soft = (alpha * z).softmax(-1)
            mean = (soft[:, None] * embed(tokens)).sum(0)
            if kind == "straight_through":
                fixed = (embed(tokens).detach() * soft[:, None]).sum(0)
                mean = embed(tokens[z.argmax()]) + fixed - fixed.detach()
            inputs.append(mean[None])
        logprobs = model(inputs_embeds=torch.cat(inputs)[None]).logits[0, first:].log_softmax(-1)
        for node in (batch.node_weights > 0).nonzero()[:, 0].tolist():
            token, step = int(batch.node_token[node]), int(batch.node_depth[node]) - 1
            total = total - batch.node_weights[node].double() * logprobs[step, token]
    return total


@pytest.mark.parametrize("source", ["constrained", "free"])
@pytest.mark.parametrize(("kind", "through"), [("soft", True), ("soft", False), ("straight_through", True)])
def test_loss_and_gradient_are_those_of_plain_forwards_in_float64(kind, source, through):
    queries, loss = ragged_queries(), PATH_LOSSES["trie"]
    model = gpt2().double()
    expected = plain_loss(model, queries, loss, 0.7, kind, source, through)
    theirs = gradient(model, expected)
    objective = sampling(mixture=kind, source=source, alpha=0.7, through_first_pass=through)
    found = objective(context_of(model, pack(queries, loss))).loss_sum
    ours = gradient(model, found)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()
    if through:
        blind = gradient(model, plain_loss(model, queries, loss, 0.7, "soft", source, False))
        assert (theirs - blind).norm() > 1e-2 * theirs.norm(), "the first pass must matter here"


def test_the_reference_gradient_is_that_of_finite_differences():
    """In float64, soft mixtures, through both passes: what the packed gradient is compared with above."""
    model, queries, loss = gpt2().double(), ragged_queries(), PATH_LOSSES["trie"]
    exact = gradient(model, plain_loss(model, queries, loss, 0.7, "soft", "constrained"))
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(0)
    start = torch.nn.utils.parameters_to_vector(parameters).detach()
    for _ in range(3):
        way = torch.randn(start.shape, generator=generator, dtype=torch.float64)
        values = []
        for sign in (1, -1):
            torch.nn.utils.vector_to_parameters(start + sign * 1e-5 * way, parameters)
            with torch.no_grad():
                values.append(plain_loss(model, queries, loss, 0.7, "soft", "constrained").item())
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(exact @ way), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_have_the_gradient_of_the_softmax_by_hand(kind):
    """d/dz_v = alpha s_v (g_v - s.g) for g = d/dw, whatever the value: one-hot to the bit if straight-through."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    weights, best = mixture_weights(scores, 1.7, kind)
    (found,) = torch.autograd.grad((weights * upstream).sum(), scores)
    soft = (1.7 * scores).softmax(-1)
    assert torch.allclose(found, 1.7 * soft * (upstream - (soft * upstream).sum(-1, keepdim=True)), rtol=1e-12)
    assert torch.equal(best, scores.argmax(-1))
    expected = soft if kind == "soft" else torch.eye(7, dtype=torch.float64)[best]
    assert torch.equal(weights, expected)


def test_settings_reach_the_mixture():
    """The sharpness is that of the optimizer step, and top_k leaves so many weights."""
    batch = pack(ragged_queries())
    context = replace(context_of(tiny_model(), batch), step=20)
    objective = sampling(alpha=0.5, alpha_maximum=9.0, alpha_doubling=10, top_k=2, source="free")
    assert objective(context).logs["alpha"] == pytest.approx(2.0)
    same = sampling(alpha=2.0, top_k=2, source="free")(context).loss_sum
    assert torch.equal(objective(context).loss_sum, same)
    weights = soft_prefixes(context, 0.0, 2.0, objective.settings)[1].weights
    assert ((weights > 0).sum(-1) == 2).all()


def test_top_k_keeps_the_largest():
    scores = torch.tensor([[1.0, 3.0, 2.0, 0.0], [5.0, -torch.inf, -torch.inf, -torch.inf]], requires_grad=True)
    weights, _ = mixture_weights(scores, 2.0, "soft", top_k=2)
    sure = 1 / (1 + math.exp(-2))
    assert torch.allclose(weights, torch.tensor([[0, sure, 1 - sure, 0], [1, 0, 0, 0]]))
    weights[:, 1].sum().backward()
    assert scores.grad.isfinite().all()


def hard(model, batch, fed, layout="sequence"):
    mixed = mixed_batch(batch, gold_inputs(batch), fed)
    return weighted_nll(node_logprobs(model, mixed, layout).logprobs, mixed.node_weights)


def test_straight_through_feeds_the_hard_tokens_exactly():
    model, batch = tiny_model(), pack(ragged_queries())
    for gold in (0.0, 0.5):
        objective = sampling(gold, mixture="straight_through")
        torch.manual_seed(0)
        _, _, fed = soft_prefixes(context_of(model, batch), gold, 1.0, objective.settings)
        torch.manual_seed(0)
        found = objective(context_of(model, batch)).loss_sum
        expected = hard(model, batch, fed)
        assert torch.equal(found, expected)
        assert (gradient(model, found) - gradient(model, expected)).norm() > 1e-3


@pytest.mark.parametrize("source", ["constrained", "free"])
def test_a_sharp_soft_argmax_is_the_hard_one(source):
    """As alpha grows, the loss and its gradient become those of feeding the argmax; at alpha = 1 they are not."""
    model, batch = tiny_model(), pack(ragged_queries())
    tokens, scores = candidates(batch, context_of(model, batch).output, gold_inputs(batch), source)
    expected = hard(model, batch, tokens[scores.argmax(-1)])
    theirs = gradient(model, expected)
    for alpha, close in ((1.0, False), (1e5, True)):
        found = sampling(source=source, alpha=alpha)(context_of(model, batch)).loss_sum
        assert math.isclose(found.item(), expected.item(), rel_tol=1e-5) == close
        assert ((gradient(model, found) - theirs).norm() < 1e-4 * theirs.norm()) == close


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 999), st.integers(1, 8), st.integers(2, 12)), min_size=1, max_size=3))
def test_mixtures_are_of_the_prefix_continuations_and_layouts_and_batches_agree(shapes):
    queries = [random_query(seed, docs, prompt) for seed, docs, prompt in shapes]
    model, batch = tiny_model(), pack(queries)
    chain = gold_inputs(batch)
    tokens, scores = candidates(batch, context_of(model, batch).output, chain, "constrained")
    weights, _ = mixture_weights(scores, 1.0, "soft")
    assert torch.allclose(weights.sum(-1), torch.ones(len(chain)))
    place = 0
    for query in queries:
        path = query.docid_ids[0]
        for step in range(len(path) - 1):
            assert tokens[weights[place] > 0].tolist() == children_of(query, path[:step])
            place += 1
    assert place == len(chain)
    losses = [sampling()(context_of(model, batch, layout)).loss_sum for layout in ("sequence", "cache")]
    gradients = [gradient(model, loss) for loss in losses]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5, abs=1e-6)
    assert (gradients[0] - gradients[1]).norm() <= 1e-4 * gradients[0].norm() + 1e-6
    alone = sum(sampling()(context_of(model, pack([query]))).loss_sum.item() for query in queries)
    assert losses[0].item() == pytest.approx(alone, rel=1e-5, abs=1e-6)


def test_gumbel_draws_from_the_model():
    """The tokens' frequencies are the softmax of the logits among the continuations, within 4 standard errors."""
    batch = pack(ragged_queries()[2:])
    context = context_of(tiny_model(), batch)
    tokens, scores = candidates(batch, context.output, gold_inputs(batch)[:1], "constrained")
    probs, count = scores[0].detach().softmax(-1), 500
    torch.manual_seed(0)
    with torch.no_grad():
        chosen = sampling(mixture="straight_through", gumbel=True).settings
        drawn = torch.stack([soft_prefixes(context, 0.0, 1.0, chosen)[2][0] for _ in range(count)])
    shares = (drawn[:, None] == tokens).double().mean(0)
    assert (probs > 0.05).sum() > 1
    assert ((shares - probs).abs() < 4 * (probs * (1 - probs) / count).sqrt() + 1e-9).all()


def test_gold_tokens_stay_as_often_as_they_should():
    batch = pack(ragged_queries())
    context, chain = context_of(tiny_model(), batch), gold_inputs(batch)
    torch.manual_seed(0)
    count = 300
    with torch.no_grad():
        made = [soft_prefixes(context, 0.3, 1.0, sampling().settings)[1] for _ in range(count)]
    share = sum(len(mixture.row) for mixture in made) / (count * len(chain))
    assert abs(share - 0.7) < 4 * math.sqrt(0.21 / (count * len(chain)))


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_ddp_sees_both_forwards_and_one_backward(one_process):
    """Embeddings are looked up outside its forward: their gradient must be whole all the same."""
    found = []
    for wrap in (lambda model: model, DistributedDataParallel):
        model = wrap(tiny_model(tie_word_embeddings=True))
        found.append(gradient(model, sampling()(context_of(model, pack(ragged_queries()))).loss_sum))
    assert torch.allclose(*found, rtol=1e-5, atol=1e-6)


def test_activation_checkpointing_gives_the_same_gradient():
    found = []
    for checkpointed in (False, True):
        model = tiny_model().train()
        if checkpointed:
            model.gradient_checkpointing_enable()
        found.append(gradient(model, sampling()(context_of(model, pack(ragged_queries()))).loss_sum))
    assert torch.allclose(*found, rtol=1e-5, atol=1e-6)


def test_accumulation_changes_nothing_and_the_mixture_is_what_is_fed(tmp_path):
    """1 x 8 = 4 x 2 for both kinds; their gradients differ, as they would not if the trainer fed the tokens beneath."""
    key, found = "mitigations.soft_sampling", []
    for overlay in OVERLAYS:
        words = [f"{key}.schedule=constant", f"{key}.half_step=null", f"{key}.gumbel=false", "training.max_steps=1"]
        words += ["training.max_grad_norm=0"]
        for size in (8, 2):
            micro = f"training.per_device_train_batch_size={size}"
            found.append(first_gradient(tiny_recipe(tmp_path, *words, micro, recipe=f"wordnet_beta2,{overlay}")))
    for whole, cut in (found[:2], found[2:]):
        assert (cut - whole).norm() < 1e-6 * max(1, whole.norm())
    assert (found[0] - found[2]).norm() > 1e-2 * found[0].norm()


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        (OVERLAYS[0], ["training.neftune_noise_alpha=5"]),
        (OVERLAYS[1], ["training.bf16=true", "layout=cache"]),
        (f"{OVERLAYS[0]},lora", ["lora.r=2"]),
    ],
    ids=["soft, neftune", "straight_through, bf16, cache", "soft, lora"],
)
def test_a_recipe_with_the_overlay_trains(tmp_path, overlay, words):
    key = "mitigations.soft_sampling"
    words = [*words, f"{key}.schedule=constant", f"{key}.half_step=null", f"{key}.minimum=0.3"]
    recipe = tiny_recipe(tmp_path, *words, "training.logging_steps=1", recipe=f"wordnet_beta2,{overlay}")
    trainer = build_trainer(recipe)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss_per_token" in entry]
    assert len(logs) == 3
    assert all(0 < log["loss_per_token"] < 10 and 0 <= log["off_trie_rate"] <= 1 and log["alpha"] >= 1 for log in logs)
    assert max(log["replaced_tokens"] for log in logs) > 0


def test_sharpness_doubles_up_to_its_maximum():
    assert [sharpness(2.0, 30.0, 10, step) for step in (0, 10, 20, 10_000_000)] == pytest.approx([2, 4, 8, 30])
    assert sharpness(2.0, None, None, 10) == 2.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SoftSamplingSettings("linear"), "half_step goes with every schedule but constant"),
        (SoftSamplingSettings("constant", minimum=2.0), "minimum=2.0 must lie between 0 and 1"),
        (SoftSamplingSettings("constant", alpha=0.0), "alpha=0.0 must be a finite number above 0"),
        (SoftSamplingSettings("constant", alpha_doubling=3), "alpha_maximum goes with alpha_doubling"),
        (SoftSamplingSettings("constant", alpha_doubling=3, alpha_maximum=1.0), "alpha_maximum=1.0 must be"),
        (
            SoftSamplingSettings("constant", alpha_doubling=0, alpha_maximum=9.0),
            "alpha_doubling=0 must be a whole number",
        ),
        (SoftSamplingSettings("constant", top_k=1), "top_k=1 must be at least 2"),
        (
            SoftSamplingSettings("constant", mixture="straight_through", through_first_pass=False),
            "mixture=straight_through conflicts with through_first_pass=false.*mitigations.scheduled_sampling",
        ),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=f"mitigations.soft_sampling.{message}"):
        settings.check()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipe=wordnet_ntp,small,scheduled_sampling_soft,mixer"], "both take the place of the loss"),
        (["recipe=wordnet_ntp,small,scheduled_sampling_soft,scheduled_sampling"], "both take the place of the loss"),
        (["recipe=wordnet_alpha2,small,scheduled_sampling_soft"], "soft_sampling trains on the top docID's path alone"),
        (
            ["recipe=wordnet_ntp,small,scheduled_sampling_soft", "layout=pointwise"],
            "layout=pointwise conflicts with mitigations.soft_sampling.*use layout=sequence or cache",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(words, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(*words)


def test_models_and_launchers_that_cannot_mix_are_refused_by_name():
    config = tiny_model().config
    check_mixable(config, None)
    with pytest.raises(ValueError, match=r"soft_sampling.*FSDP2 has them in pieces; use DDP"):
        check_mixable(config, "FSDP2")
    config.hidden_size_per_layer_input = 8  # as Gemma 3n's
    with pytest.raises(ValueError, match="embeds tokens again in every layer"):
        check_mixable(config, None)
    mixture = Mixture(*[torch.zeros(0, dtype=torch.int64)] * 2, torch.tensor([5]), torch.zeros(0, 1))
    prompted = get_peft_model(tiny_model(), PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3))
    with pytest.raises(ValueError, match=r"soft prompt do not take mixtures.*soft_sampling"):
        node_logprobs(prompted, pack(ragged_queries()), "cache", mixture=mixture)
    with pytest.raises(ValueError, match=r"layout=pointwise does not take mixtures"):
        node_logprobs(tiny_model(), pack(ragged_queries()), "pointwise", mixture=mixture)


def test_the_launcher_is_looked_at_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(ValueError, match=r"soft_sampling.*FSDP2"):
        build_trainer(tiny_recipe(tmp_path, recipe=f"wordnet_beta2,{OVERLAYS[0]}"))
