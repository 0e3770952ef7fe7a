"""benchmarks/race: rivals train on the same loss from the same weights, marks, thresholds by hand, resume, mistakes."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from benchmarks import measure
from benchmarks.race import __main__ as race
from benchmarks.race import clock, legs, rows
from benchmarks.race.clock import Marks, falling
from benchmarks.race.course import COURSES, Course, Start
from benchmarks.race.language_models import Tuned, collate, dataset, sft_trainer, weighted_loss
from benchmarks.race.options import RaceOptions
from benchmarks.race.report import Threshold, reached_table, thresholds
from benchmarks.race.rows import Row
from benchmarks.race.scoring import a_row_each, score_race
from stoical.encoding.queries import EncodedDataset
from stoical.objectives.stoical_loss import SToICaLLoss
from stoical.training.build import build_trainer
from tests.support.small_data import TINY, write_dataset

LIMIT = 4  # steps


@pytest.fixture
def course(tmp_path, monkeypatch) -> str:
    """The race's first course, of a tiny model on tiny lists."""
    write_dataset(tmp_path / "data")
    words = (*TINY, f"training.max_steps={LIMIT}", "training.warmup_steps=1")
    tiny = Course(
        str(tmp_path / "data"), ("wordnet_alpha2,small", *words), ("wordnet_ranking,small", *words), "nothing"
    )
    monkeypatch.setitem(COURSES, "mammals", tiny)
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    return "mammals"


@pytest.fixture
def start(course) -> Start:
    return Start.of(course, 0)


def as_rows(start: Start, queries) -> list[Row]:
    return [
        Row(list(query.prompt_ids), list(ids), 1 / rank**2)
        for query in queries
        for ids, rank in zip(query.docid_ids, query.ranks, strict=True)
    ]


def test_the_plain_trainers_loss_is_stoicals_on_the_same_rows(start):
    queries = [EncodedDataset(start.train, start.encoder)[place] for place in range(6)]
    gradients, values = [], []
    batch = start.evaluator.collator(queries)["batch"]
    assert len({len(query.docids) for query in queries}) > 1
    for loss in (
        lambda model: SToICaLLoss(start.recipe.loss).mean(model, batch),
        lambda model: weighted_loss(model, collate(list(dataset(as_rows(start, queries))), pad=0)),
    ):
        model = start.model().double()
        model.set_attn_implementation("sdpa")
        values.append(loss(model))
        values[-1].backward()
        gradients.append(torch.cat([weight.grad.flatten().double() for weight in model.parameters()]))
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-6)
    assert (gradients[0] - gradients[1]).norm() < 1e-6 * gradients[0].norm()


def test_trl_trains_on_the_docids_tokens(start, tmp_path):
    pytest.importorskip("trl", reason="TRL is in the extra `race`")
    queries = [EncodedDataset(start.train, start.encoder)[place] for place in range(3)]
    found = [replace(row, weight=1.0) for row in as_rows(start, queries)]
    marks = Marks(dict, every_seconds=1.0, budget=1.0)
    trainer = sft_trainer(start, marks, Tuned(len(found), 0.1), found, str(tmp_path))
    batch = next(iter(trainer.get_train_dataloader()))
    wanted = weighted_loss(start.model(), collate(list(dataset(found)), pad=0)) * len(found)
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(wanted.item() / sum(len(row.docid) for row in found), rel=1e-5)


def test_rows_of_like_length_are_batched_where_asked(start, tmp_path):
    pytest.importorskip("trl", reason="TRL is in the extra `race`")
    random = np.random.default_rng(0)
    found = [Row(random.integers(3, 50, n).tolist(), [5, 7], 1.0) for n in random.integers(4, 60, 256)]
    real = []
    for grouped in (False, True):
        marks = Marks(dict, every_seconds=1.0, budget=1.0)
        trainer = sft_trainer(start, marks, Tuned(8, 0.1, grouped), found, str(tmp_path))
        masks = [batch["attention_mask"].float().mean().item() for batch in trainer.get_train_dataloader()]
        real.append(sum(masks) / len(masks))
    assert real[0] < 0.7
    assert real[1] > 0.8


def test_every_docid_is_a_row_with_its_weight(start):
    found = rows.all_rows(start)
    assert len(found) == sum(len(row.docs) for row in start.train)
    lists = [start.encoder.encode(row) for row in start.train]
    wanted = Counter((tuple(row.docid), row.weight) for row in as_rows(start, lists))
    assert Counter((tuple(row.docid), row.weight) for row in found) == wanted
    assert rows.orders(start) == math.ceil(LIMIT * 8 / 24)
    tops = rows.top_rows(start)
    assert Counter(tuple(row.docid) for row in tops) == Counter(
        {ids: 2 * count for ids, count in Counter(tuple(query.docid_ids[0]) for query in lists).items()}
    )


def test_rows_are_drawn_in_proportion_to_their_weight(start, monkeypatch):
    monkeypatch.setattr(rows, "DRAWS", 2000)
    one = replace(start, train=[max(start.train, key=lambda row: len(row.docs))])
    drawn = Counter(tuple(row.docid) for row in rows.drawn_rows(one))
    query = start.encoder.encode(one.train[0])
    total = sum(1 / rank**2 for rank in query.ranks)
    for ids, rank in zip(query.docid_ids, query.ranks, strict=True):
        share = 1 / rank**2 / total
        spread = math.sqrt(share * (1 - share) / drawn.total())
        assert drawn[tuple(ids)] / drawn.total() == pytest.approx(share, abs=5 * spread)


def test_all_start_from_the_same_weights(start, tmp_path):
    first = {name: weight.clone() for name, weight in start.model().state_dict().items()}
    torch.rand(3)
    trained = build_trainer(start.with_output(COURSES["mammals"].recipe, tmp_path / "run")).model.state_dict()
    assert trained.keys() == first.keys()
    assert all(torch.equal(weight, trained[name]) for name, weight in first.items())
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is in the extra `race`")
    from benchmarks.race.cross_encoder import build

    body = build(start, str(tmp_path / "pairs"))[0].model.model.state_dict()
    assert all(torch.equal(weight, first[f"model.{name}"]) for name, weight in body.items())


def test_scores_are_equal_on_both_ways(start):
    model, plain = start.model().eval(), start.model().eval()
    plain.set_attn_implementation("sdpa")
    wanted = [row.scores for row in start.evaluator(model).rows]
    found = iter(a_row_each(plain, start.encoder, list(start.test)))
    for scores in wanted:
        assert scores == pytest.approx([next(found) for _ in scores], abs=1e-5)
    assert next(found, None) is None
    assert start.measure(plain) == start.measure(model)
    assert plain.config._attn_implementation == "sdpa"


def test_scores_of_pairs_are_judged_as_the_evaluator_judges(start):
    evaluation = start.evaluator(start.model())
    scores = iter([score for row in evaluation.rows for score in row.scores])
    found = start.measure_scores(lambda pairs: [next(scores) for _ in pairs])
    assert found == pytest.approx({name: evaluation.metrics[name] for name in found})
    assert "cvr" in found


def test_the_rate_falls_with_the_clock_as_the_recipes_does_with_steps(monkeypatch):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, 50, 600).lr_lambdas[0]
    time = SimpleNamespace(now=(0.0, 0.0))
    monkeypatch.setattr(clock, "now", lambda: time.now)
    marks = Marks(dict, every_seconds=1.0, budget=12.0)
    ours = falling(optimizer, marks, 50 / 600).lr_lambdas[0]
    marks.on_train_begin(None, SimpleNamespace(global_step=0), None)
    for step in (0, 10, 50, 51, 300, 600):
        time.now = (step / 50, 0.0)
        assert ours(7) == pytest.approx(theirs(step))
    time.now = (13.0, 0.0)
    assert ours(7) == pytest.approx(0.0)


def test_marks_are_due_by_the_clock_and_evaluation_stops_it(monkeypatch):
    time, control = SimpleNamespace(now=(5.0, 5.0)), SimpleNamespace(should_training_stop=False)
    monkeypatch.setattr(clock, "now", lambda: time.now)

    def evaluate() -> dict[str, float]:
        time.now = (time.now[0] + 100, time.now[1] + 200)
        return {"ndcg": 0.5}

    marks = Marks(evaluate, every_seconds=2.0, budget=5.0)
    marks.on_train_begin(None, SimpleNamespace(global_step=0), control)
    for step in range(1, 8):
        time.now = (time.now[0] + 0.75, time.now[1] + 1.5)
        marks.tokens += 10
        marks.on_step_end(None, SimpleNamespace(global_step=step), control)
        if control.should_training_stop:
            break
    marks.on_train_end(None, SimpleNamespace(global_step=step), control)
    assert [mark.step for mark in marks.marks] == [0, 3, 6, 7]
    assert [mark.seconds for mark in marks.marks] == pytest.approx([0, 2.25, 4.5, 5.25])
    assert [mark.wall for mark in marks.marks] == pytest.approx([0, 4.5, 9.0, 10.5])
    assert [mark.tokens for mark in marks.marks] == [0, 30, 60, 70]


def call(monkeypatch, tmp_path, *words: str) -> int:
    own = [f"runs={tmp_path / 'runs'}", f"figure={tmp_path / 'race.png'}", "quick=true", "datasets=mammals", "seeds=3"]
    given = {word.partition("=")[0]: word for word in (*own, *words)}
    monkeypatch.setattr("sys.argv", ["race", *given.values()])
    return race.main()


def test_a_quick_race(course, tmp_path, monkeypatch, capsys):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is in the extra `race`")
    pytest.importorskip("trl", reason="TRL is in the extra `preferences`")
    assert call(monkeypatch, tmp_path) == 0
    result = json.loads((tmp_path / "results" / "race.json").read_text())
    runs = {record["system"]: record for record in result["results"]["runs"]["mammals"]}
    assert list(runs) == ["stoical", "stoical_list_mle", "sft", "sft_drawn", "sft_grouped", "trainer", "cross_encoder"]
    for record in runs.values():
        for what in ("seconds", "wall", "tokens", "step"):
            values = [mark[what] for mark in record["marks"]]
            assert values == sorted(values)
            assert values[0] == 0 < values[-1]
        assert {"ndcg", "cvr", "recall@1"} == set(record["marks"][-1]["metrics"])
    lap = runs["stoical"]["marks"][-1]["seconds"]
    assert all(runs[name]["budget"] == pytest.approx(lap) for name in ("sft", "trainer", "cross_encoder"))
    first = [runs[name]["marks"][0]["metrics"] for name in runs if name != "cross_encoder"]
    assert first == [first[0]] * len(first)  # of the same weights
    text = (tmp_path / "results" / "race.md").read_text()
    assert text.count("| TRL SFTTrainer, top docID |") == 4
    assert (tmp_path / "race.png").exists()
    assert "trl 1." in text

    monkeypatch.setattr(legs, "run", lambda *arguments: pytest.fail("it ran again"))
    before = (tmp_path / "results" / "race.json").read_text()
    assert call(monkeypatch, tmp_path) == 0
    assert (tmp_path / "results" / "race.json").read_text() == before
    assert call(monkeypatch, tmp_path, "marks=5") == 0  # quick has marks of its own
    record = tmp_path / "runs" / "mammals-trainer-3-x1.json"
    record.write_text(record.read_text().replace('"batch": 32', '"batch": 33'))
    assert call(monkeypatch, tmp_path) == 2
    assert "mammals-trainer-3-x1.json was made with another tuned" in capsys.readouterr().err


def test_an_interrupted_race_goes_on(course, tmp_path, monkeypatch):
    ran, run = [], legs.run

    def some(leg, *arguments):
        ran.append(leg.name)
        if len(ran) == 2:
            raise KeyboardInterrupt
        return run(leg, *arguments)

    monkeypatch.setattr(legs, "run", some)
    assert call(monkeypatch, tmp_path, "systems=trainer", "scored=0") == 130
    assert call(monkeypatch, tmp_path, "systems=trainer", "scored=0") == 0
    assert ran == ["mammals-stoical-3", "mammals-trainer-3-x1", "mammals-trainer-3-x1"]


def test_a_dataset_that_is_missing_is_skipped(course, tmp_path, monkeypatch):
    monkeypatch.setitem(COURSES, "esci", replace(COURSES["esci"], path=str(tmp_path / "none")))
    assert call(monkeypatch, tmp_path, "datasets=esci", "systems=trainer") == 0
    text = (tmp_path / "results" / "race.md").read_text()
    assert "## esci: skipped" in text
    assert "make it with: stoical prepare esci" in text


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("datasets=mammal", "Did you mean 'mammals'?"),
        ("systems=sft,sft", "names one of them twice"),
        ("systems=", "says nothing"),
        ("seeds=0,x", "seeds=0,x must be whole numbers from 0"),
        ("seeds=-1", "must be whole numbers from 0"),
        ("horizons=0", "horizons=0 must be numbers above 0"),
        ("marks=0", "marks=0 must be at least 1"),
        ("budget=nan", "must be a number of seconds above 0"),
        ("scored=-1", "scored=-1 must be at least 0"),
        ("steps=-1", "steps=-1 must be at least 0"),
    ],
)
def test_mistakes_are_told(tmp_path, monkeypatch, capsys, word, said):
    monkeypatch.setattr("sys.argv", ["race", word, f"runs={tmp_path}"])
    assert race.main() == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(legs, "ENTRANTS", {"sft": SimpleNamespace(needs=("no-such-package",))})
    with pytest.raises(ValueError, match=r"sft needs no-such-package: pip install 'stoical\[race\]'"):
        legs.packages("sft")


def record(system: str, seed: int, values: list[float], horizon: float | None = None, pace: float = 1.0) -> dict:
    marks = [
        {
            "seconds": pace * place,
            "wall": pace * place,
            "tokens": 10 * place,
            "step": place,
            "metrics": {"ndcg": value, "recall@1": 0.0},
        }
        for place, value in enumerate(values)
    ]
    return {"system": system, "seed": seed, "horizon": horizon, "marks": marks}


def test_thresholds_and_who_reaches_them_by_hand():
    records = [
        record("stoical", 0, [0.5, 0.6, 0.7, 0.7, 0.9]),
        record("stoical", 1, [0.5, 0.8, 0.7, 0.7, 0.9]),
        record("trainer", 0, [0.5, 0.5, 0.75, 0.8], 1.0, pace=2),
        record("trainer", 0, [0.5, 0.6, 0.6, 0.95], 5.0, pace=3),
        record("trainer", 1, [0.5, 0.6, 0.6, 0.85], 1.0, pace=2),
    ]
    found = [(each.metric, each.share, each.value) for each in thresholds(records)]
    assert [name for name, _, _ in found] == ["ndcg"] * 3 + ["recall@1"] * 3
    assert found[:3] == [
        ("ndcg", 0.25, pytest.approx(0.7)),  # the mean of 0.6 and 0.8
        ("ndcg", 0.5, pytest.approx(0.7)),
        ("ndcg", 1.0, pytest.approx(0.9)),
    ]
    table = [line.split(" | ") for line in reached_table(records, "seconds", lambda s: f"{s:g}", " s").splitlines()]
    assert [cell.strip("| ") for cell in table[2][:4]] == ["stoical, 1/r²", *["1.5 ± 0.707107 s"] * 2, "4 ± 0 s"]
    cells = [cell.strip("| ") for cell in table[3]]
    assert cells[1] == "5 ± 1.41421 s (4.0x)"  # 4 and 6 s; stoical's 2 and 1 s
    assert cells[3] == "9 s, 1 of 2 seeds"
    assert Threshold("cvr", 1.0, 0.2).reached({"marks": [{"metrics": {"cvr": 0.3}}, {"metrics": {"cvr": 0.2}}]})
    nobody = [record("stoical", 0, [0.5, 0.9]), record("sft", 0, [0.5, 0.6], 1.0, pace=7)]
    assert "| not in 7 s |" in reached_table(nobody, "seconds", lambda s: f"{s:g}", " s")


def test_the_scoring_race_counts_all_documents(start):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is in the extra `race`")
    result = score_race(start, 3, 0.0)
    assert result["queries"] == 3
    assert result["documents"] == sum(len(row.docs) + len(row.negatives) for row in list(start.test)[:3])
    assert result["max_difference_nats"] < 1e-5
    assert all(len(times["cpu"]) == 3 for times in result["times"].values())


def test_a_race_can_be_shorter(course):
    training = Start.of(course, 0, steps=24).recipe.training
    assert (training["max_steps"], training["warmup_steps"]) == (24, 2)
    assert Start.of(course, 0, steps=24).warmup == pytest.approx(1 / 12)


def test_the_defaults_are_sound():
    from benchmarks.race.options import Plan

    plan = Plan.of(RaceOptions())
    assert plan.systems[0] == "stoical"
    assert len(legs.legs(plan, "mammals")) == 3 * (2 + 5 * 2)
