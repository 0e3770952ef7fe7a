"""One forward over the trie equals one forward a docID: values and gradients, every weight row, ragged batches.

The oracle is `tests/reference.py`: a plain forward of the model per prefix and the paper's loss as loops.
"""

from __future__ import annotations

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from stoical.decoding.sampling import greedy_tokens
from stoical.decoding.walks import reach, valid_logmass
from stoical.encoding.tokenized import TokenizedQuery
from stoical.models.checks import check_model
from stoical.models.forward import node_logprobs
from stoical.models.self_check import self_check
from stoical.objectives.objective import StepContext
from stoical.objectives.stoical_loss import SToICaLLoss
from stoical.trie.node_weights import TargetSettings
from tests.support.packed import leaking, pack
from tests.support.random_queries import ragged_queries, random_query
from tests.support.reference import every_node_loss, forward_each, stoical_loss
from tests.support.tiny_model import tiny_model

ROWS = {
    "ntp": TargetSettings(),
    "fractional": TargetSettings(item="fractional", alpha=2.0),
    "stepwise": TargetSettings(item="stepwise"),
    "trie": TargetSettings(token="trie", beta=2.0),
    "combined": TargetSettings(item="fractional", alpha=2.0, token="trie", beta=3.0),
    "combined_stepwise": TargetSettings(item="stepwise", token="trie", beta=1.0),
    "mass": TargetSettings(token="every_node", beta=2.0, visits="mass"),
    "uniform": TargetSettings(token="every_node", beta=2.0, visits="uniform"),
    "reach": TargetSettings(token="every_node", beta=2.0, visits="reach"),
}
LAYOUTS = ("sequence", "cache", "pointwise")
ATTENTIONS = ("trie_sdpa", "sdpa", "eager")


def packed_loss(model, queries, settings, layout, prune):
    batch = pack(queries, settings, prune)
    output = node_logprobs(model, batch, layout, keep="logits")
    context = StepContext(batch, output, step=0, forward=node_logprobs, predict=node_logprobs)
    return SToICaLLoss(settings)(context).loss_sum


def reference_loss(model, queries, settings):
    losses = []
    for query in queries:
        logprob = forward_each(model, query.prompt_ids)
        docids, ranks = [tuple(ids) for ids in query.docid_ids], list(query.ranks)
        if settings.token == "every_node":
            losses.append(every_node_loss(logprob, docids, ranks, beta=settings.beta, visits=settings.visits))
        else:
            kinds = {"item": settings.item, "token": settings.token}
            exponents = {"alpha": settings.alpha or 0.0, "beta": settings.beta or 0.0}
            losses.append(stoical_loss(logprob, docids, ranks, **kinds, **exponents))
    return torch.stack(losses).sum()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("terminated", [True, False])
def test_loss_and_gradient_equal_the_papers_loops(model, name, terminated):
    queries = ragged_queries(terminated=terminated)
    expected = reference_loss(model, queries, ROWS[name])
    expected_gradient = gradients(model, expected)
    for layout in LAYOUTS:
        for prune in (False,) if name == "reach" else (False, True):
            loss = packed_loss(model, queries, ROWS[name], layout, prune)
            assert loss.dtype == torch.float32
            assert loss.item() == pytest.approx(expected.item(), rel=1e-5), (layout, prune)
            difference = (gradients(model, loss) - expected_gradient).norm() / expected_gradient.norm()
            assert difference < 1e-5, (layout, prune)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("layout", ["sequence", "cache"])
@pytest.mark.parametrize("shape", [{}, {"num_key_value_heads": 4}, {"head_dim": 12, "tie_word_embeddings": True}])
def test_every_attention_gives_the_pointwise_logprobs(attention, layout, shape):
    model, batch = tiny_model(attention, **shape), pack(ragged_queries(), ROWS["fractional"])
    expected = node_logprobs(tiny_model("sdpa", **shape), batch, "pointwise").logprobs
    assert torch.allclose(node_logprobs(model, batch, layout).logprobs, expected, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_roots_are_zero_and_nodes_are_logprobs(model, layout):
    batch = pack(ragged_queries(), ROWS["fractional"])
    logprobs = node_logprobs(model, batch, layout).logprobs
    assert (logprobs[batch.node_token < 0] == 0).all()
    assert (logprobs[batch.node_token >= 0] < 0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_single_token_docids_need_no_node_columns(model, layout):
    """Without a terminator such a trie has no inner node but the root: nothing follows the prompt."""
    query = random_query(0, docs=3, terminated=False)
    query = type(query)("q", query.prompt_ids, ["a", "b", "c"], [[5], [9], [4]], [1, 1, 1], [1, 2, 3])
    batch = pack([query], ROWS["fractional"])
    expected = forward_each(model, query.prompt_ids)(())[[5, 9, 4]]
    found = node_logprobs(model, batch, layout).logprobs[batch.doc_path[:, 0]]
    assert torch.allclose(found.double(), expected, atol=1e-5)


def test_a_batch_is_its_queries_alone(model):
    """Padding, of prompts and of tries, changes nothing."""
    queries = ragged_queries()
    together = node_logprobs(model, pack(queries, ROWS["fractional"])).logprobs
    alone = torch.cat([node_logprobs(model, pack([query], ROWS["fractional"])).logprobs for query in queries])
    assert torch.allclose(together, alone, atol=1e-5)


def test_sibling_order_and_document_order_change_nothing(model):
    query = random_query(3, docs=7)
    order = [4, 0, 6, 2, 5, 1, 3]
    pick = {name: [getattr(query, name)[i] for i in order] for name in ("docids", "docid_ids", "counted", "ranks")}
    shuffled = type(query)(query.query_id, query.prompt_ids, **pick)
    losses = [packed_loss(model, [q], ROWS["combined"], "sequence", False).item() for q in (query, shuffled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_extreme_logits_stay_finite(model):
    with torch.no_grad():
        model.lm_head.weight.mul_(1e4)
    logprobs = node_logprobs(model, pack(ragged_queries(), ROWS["fractional"])).logprobs
    assert logprobs.abs().max() > 1000
    assert logprobs.isfinite().all()
    expected = node_logprobs(model, pack(ragged_queries(), ROWS["fractional"]), "pointwise").logprobs
    assert torch.allclose(logprobs, expected, rtol=1e-4)


def test_bfloat16_weights_give_float32_logprobs():
    """The logits are bfloat16, their softmax is not: 1e-5 of float64's, where bfloat16 has steps of 0.03."""
    batch, model, seen = pack(ragged_queries(), ROWS["fractional"]), tiny_model().bfloat16(), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    output = node_logprobs(model, batch, keep="logits")
    low = output.logprobs
    assert (seen[0].dtype, low.dtype) == (torch.bfloat16, torch.float32)
    expected = seen[0].double().log_softmax(-1)[output.row, output.slot, batch.node_token.clamp(min=0)].float()
    node = batch.node_token >= 0
    assert torch.allclose(low[node], expected[node], atol=1e-5)
    assert torch.allclose(low, node_logprobs(tiny_model(), batch).logprobs, atol=0.3)


def test_no_logits_for_the_prompt(model):
    """The head sees S = I + 1 positions a row, however long the prompt is."""
    batch = pack([random_query(1, docs=4, prompt=60)], ROWS["fractional"])
    seen = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    node_logprobs(model, batch, keep="logits")
    assert seen == [batch.node_up.shape[1] + 1]


@pytest.mark.parametrize("layout", ["sequence", "cache"])
def test_hidden_states_are_those_of_the_read_out_slots(model, layout):
    batch = pack(ragged_queries(), ROWS["fractional"])
    output = node_logprobs(model, batch, layout, hidden=True, keep="logits")
    logits = model.lm_head(output.hidden)
    node = batch.node_token >= 0
    read = logits.log_softmax(-1)[output.row, output.slot, batch.node_token.clamp(min=0)]
    assert torch.allclose(read[node], output.logprobs[node], atol=1e-5)


@pytest.mark.parametrize("layout", ["sequence"])
def test_activation_checkpointing_gives_the_same_gradients(layout):
    queries, models = ragged_queries(), [tiny_model(), tiny_model()]
    models[1].gradient_checkpointing_enable()
    found = [gradients(m.train(), packed_loss(m, queries, ROWS["fractional"], layout, False)) for m in models]
    assert torch.allclose(*found, rtol=1e-5, atol=1e-7)


def test_cache_layout_refuses_activation_checkpointing(model):
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match=r"layout=cache.*activation checkpointing"):
        packed_loss(model.train(), ragged_queries(), ROWS["fractional"], "cache", False)


def test_self_check_sees_a_wrong_mask(model):
    """The difference is tiny, and is not once a node may look at its siblings."""
    batch = pack(ragged_queries(), ROWS["fractional"])
    assert self_check(model, batch, "sequence", torch.float32) < 1e-5
    assert self_check(model, batch, "cache", torch.float32) < 1e-5
    with pytest.raises(ValueError, match="cannot branch"):
        self_check(model, leaking(batch), "sequence", torch.float32)


def test_a_saved_model_loads_without_stoical(model, tmp_path):
    """The attention's name stays out of config.json: transformers alone can load the checkpoint."""
    model.save_pretrained(tmp_path)
    assert "trie_sdpa" not in (tmp_path / "config.json").read_text()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config._attn_implementation == "sdpa"


def test_trie_attention_serves_plain_calls_too():
    """Padding masks and generate go through the same attention function as sdpa's."""
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    ours, theirs = tiny_model(), tiny_model("sdpa")
    found, expected = (m(input_ids=ids, attention_mask=mask).logits for m in (ours, theirs))
    assert torch.allclose(found[mask.bool()], expected[mask.bool()], atol=1e-6)
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(ours.generate(ids[:1], **settings), theirs.generate(ids[:1], **settings))


def test_unfit_models_are_refused():
    with pytest.raises(ValueError, match=r"sliding window of 8 tokens.*max_length=64"):
        check_model(tiny_model(sliding_window=8), 64)
    check_model(tiny_model(sliding_window=64), 64)
    model = tiny_model()
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"flash_attention_2.*trie_sdpa, sdpa, eager"):
        check_model(model, 64)
    mamba = MambaForCausalLM(MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1))
    mamba.config._attn_implementation = "sdpa"
    with pytest.raises(ValueError, match="recurrent"):
        check_model(mamba, 64)


def gpt2(positions):
    shape = {"vocab_size": 97, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
    return GPT2LMHeadModel(GPT2Config(n_positions=positions, attn_implementation="sdpa", **shape)).eval()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_needs_no_more_positions_than_its_longest_sequence(layout):
    queries = [*ragged_queries(), TokenizedQuery("long", [1] * 20, ["a"], [[5, 2]], [2], [1])]
    batch = pack(queries, ROWS["uniform"])
    longest = max(len(query.prompt_ids) + max(map(len, query.docid_ids)) for query in queries)
    model = gpt2(longest)
    with torch.no_grad():
        alone = [node_logprobs(model, pack([query]), "pointwise").logprobs for query in queries]
        assert torch.allclose(node_logprobs(model, batch, layout).logprobs, torch.cat(alone), atol=1e-5)


def test_virtual_tokens_take_positions_and_room_in_a_window():
    with pytest.raises(ValueError, match=r"has 40 positions .*fewer than prompt.max_length=30 after 16 virtual tokens"):
        check_model(gpt2(40), 30, virtual=16)
    check_model(gpt2(40), 24, virtual=16)
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=16)
    with pytest.raises(ValueError, match=r"sliding window of 40 tokens, shorter than prompt.max_length=30 after 16"):
        check_model(get_peft_model(tiny_model(sliding_window=40), prompt), 30)


def test_writing_on_past_the_last_position_is_refused():
    batch = pack(ragged_queries())
    with pytest.raises(ValueError, match=r"lower prompt\.max_length"):
        greedy_tokens(gpt2(batch.prompt_width + 4), batch, 5, 2)
    assert greedy_tokens(gpt2(batch.prompt_width + 5), batch, 5, 2)


def test_another_architecture_works_unchanged():
    """Learned absolute positions: the nodes' position ids must be those of the pointwise rows."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3)
    model = GPT2LMHeadModel._from_config(config, attn_implementation="trie_sdpa").eval()
    batch = pack(ragged_queries(), ROWS["fractional"])
    for layout in ("sequence", "cache"):
        assert self_check(model, batch, layout, torch.float32) < 1e-4


def test_reach_and_valid_mass_by_hand(model):
    """On the second query, a single docID: every step has one valid token, so the constrained model always takes it."""
    batch = pack([random_query(5, docs=1), random_query(6, docs=5)], ROWS["fractional"])
    logprobs = node_logprobs(model, batch).logprobs
    visits, mass = reach(batch, logprobs), valid_logmass(batch, logprobs)
    single = batch.node_row == 0
    assert torch.allclose(visits[single], torch.ones(int(single.sum())))
    assert torch.allclose(mass[single], logprobs[single], atol=1e-6)
    leaves = batch.doc_path[batch.doc_query == 1].max(dim=1).values
    assert visits[leaves].sum().item() == pytest.approx(1, abs=1e-5)
    assert not visits.requires_grad
