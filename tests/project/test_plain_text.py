"""Plain text from a file of pairs to generation.json, with a target of hundreds of tokens among short ones."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from stoical.build.encoder import build_encoder, build_tokenizer
from stoical.commands import evaluate
from stoical.config.loading import load_recipe
from stoical.data.dataset import load_split
from stoical.runs.find import find_checkpoint, load_checkpoint
from stoical.training.build import build_trainer
from tests.support.commands import run
from tests.support.small_data import SYLLABLES, TINY, write_dataset

LONG = 300  # words, of a token or more each


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, and a `run` of three steps on it."""
    folder = tmp_path_factory.mktemp("text")
    rng = random.Random(0)
    sizes = [LONG if n % 6 == 0 else rng.randint(1, 5) for n in range(30)]
    pairs = [{"prompt": f"say {n}:", "target": " ".join(rng.choices(SYLLABLES, k=k))} for n, k in enumerate(sizes)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    assert run("prepare", "text", f"input={folder / 'pairs.jsonl'}", f"out={folder / 'data'}", "test_size=10") == 0
    assert run("train", *words(folder)) == 0
    return folder


def words(folder: Path, *own: str) -> list[str]:
    basic = ["recipe=text_sft,small,chains", *TINY, f"data.path={folder / 'data'}", f"output={folder / 'run'}"]
    basic += ["prompt.max_length=900", "training.save_steps=3", "training.logging_steps=1"]
    return list({word.partition("=")[0]: word for word in [*basic, *own]}.values())


def test_the_prompt_and_nothing_else_comes_before_the_target(folder: Path) -> None:
    recipe = load_recipe(*words(folder))
    tokenizer = build_tokenizer(recipe)
    encoder = build_encoder(recipe, tokenizer)
    for row in load_split(folder / "data", "train"):
        query = encoder.encode(row)
        assert query.prompt_ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(query.prompt_ids[1:]) == row.query
        (target,) = query.docid_ids
        assert target[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(target[:-1]) == row.docs[0].docid
        assert len(target) > LONG or len(row.docs[0].docid.split()) < 6


def test_the_loss_is_the_cross_entropy_of_the_targets_tokens(folder: Path) -> None:
    """transformers' own: concatenated ids, labels of -100 over the prompt, the mean over the batch's target tokens."""
    trainer = build_trainer(load_recipe(*words(folder, f"output={folder}/loss", "training.save_strategy=no")))
    queries = [trainer.train_dataset[index] for index in range(len(trainer.train_dataset))]
    inputs = trainer.data_collator(queries)
    count = trainer._get_num_items_in_batch([inputs], torch.device("cpu"))
    total, tokens = 0.0, 0
    for query in queries:
        ids = torch.tensor([*query.prompt_ids, *query.docid_ids[0]])
        labels = ids.masked_fill(torch.arange(len(ids)) < len(query.prompt_ids), -100)
        logits = trainer.model(input_ids=ids[None]).logits[0]
        total += cross_entropy(logits[:-1], labels[1:], reduction="sum").item()
        tokens += len(query.docid_ids[0])
    assert count.item() == tokens > LONG
    loss = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=count)
    assert loss.item() == pytest.approx(total / tokens, rel=1e-5)


def test_generations_are_written_beside_their_targets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main([f"checkpoint={folder / 'run'}", "eval.generation=true"])
    table = capsys.readouterr().out
    found = json.loads((folder / "run" / "eval" / "generation.json").read_text())
    assert found["num_queries"] == 10
    assert f"{100 * found['forced_accuracy']:.2f}" in table
    assert f"{found['nll']:.4f}" in table
    lines = (folder / "run" / "eval" / "per_query.jsonl").read_text().splitlines()
    rows = {row["query_id"]: row["generation"] for row in map(json.loads, lines)}
    targets = {row.query_id: row.docs[0].docid for row in load_split(folder / "data", "test")}
    assert {name: row["target"] for name, row in rows.items()} == targets
    assert len(found["by_position"]["free"]) > LONG, "the long target is among them"
    assert 0 < found["nll"] < 10


def test_generation_wants_exact_scores_and_texts_that_end(folder: Path) -> None:
    for word, message in {
        "eval.generation=maybe": "eval.generation: Value 'maybe'",
        "eval.generation=true eval.mode=greedy_path": "eval.generation=true needs exact scores; drop eval.mode",
        "eval.generation=true tokenizer.count_terminator=false": "trained to end what it writes",
    }.items():
        with pytest.raises(ValueError, match=message):
            evaluate.main([f"checkpoint={folder / 'run'}", *word.split(" ")])


def test_a_target_that_does_not_fit_is_told(folder: Path) -> None:
    recipe, _ = load_checkpoint(find_checkpoint(str(folder / "run")), {"prompt.max_length": "200"})
    encoder = build_encoder(recipe, build_tokenizer(recipe))
    long = next(row for row in load_split(folder / "data", "train") if len(row.docs[0].docid.split()) == LONG)
    with pytest.raises(ValueError, match=rf"query '{long.query_id}': .* raise prompt\.max_length or shorten"):
        encoder.encode(long)


@pytest.mark.parametrize(
    ("overlay", "named"),
    [
        ("reinforce", "mitigations.reinforce"),
        ("expected_reward", "mitigations.expected_reward"),
        ("minimum_risk", "mitigations.minimum_risk"),
        ("mixer", "mitigations.mixer"),
        ("professor_forcing", "mitigations.professor_forcing"),
        ("consistency", "mitigations.consistency"),
        ("scheduled_sampling", "mitigations.scheduled_sampling.source=constrained"),
        ("scheduled_sampling_soft", "mitigations.soft_sampling.source=constrained"),
        ("unlikelihood", "mitigations.unlikelihood.tokens=invalid"),
        ("scheduled_sampling_literal", None),
        ("neftune", None),
    ],
)
def test_walks_within_a_list_are_refused_where_every_list_is_one_text(
    folder: Path, tmp_path: Path, overlay: str, named: str | None
) -> None:
    recipe = load_recipe(*words(folder, f"recipe=text_sft,small,chains,{overlay}", f"output={tmp_path}"))
    if named is None:
        build_trainer(recipe)
        return
    with pytest.raises(ValueError, match=f"^{named} walks among the docIDs of a query's list"):
        build_trainer(recipe)


def test_a_prompt_that_shows_the_one_document_is_refused(folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(*words(folder, "recipe=text_sft,small", f"output={tmp_path}"))
    with pytest.raises(ValueError, match=r"data/train has one document, and prompt\.template=compact shows it"):
        build_trainer(recipe)


def test_the_longest_list_is_counted_over_all_rows(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    rows = load_split(tmp_path / "data", "train")
    assert rows.longest_list() == max(len(row.docs) for row in rows) > 1
