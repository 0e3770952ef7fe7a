"""RAC's rows: answers and corrections against plain decoding, prompts and targets by hand, and what is left out."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from stoical.config.recipe import Recipe
from stoical.config.self_training import RacSettings
from stoical.data.rows import Doc, RankingRow
from stoical.encoding.generated_rows import rac_query, without
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.prompts import Attempt, load_template
from stoical.encoding.queries import QueryEncoder
from stoical.encoding.tokenization import DocIDTokenizer, pad_id, train_bpe
from stoical.encoding.tokenized import TokenizedQuery
from stoical.self_training.job import Job, Pick
from stoical.self_training.rac import rac_records, rac_selected
from stoical.trie.node_weights import TargetSettings
from tests.support.small_data import make_rows
from tests.support.tiny_model import tiny_model

ROWS = [
    RankingRow(row["query_id"], row["query"], tuple(Doc(doc["docid"]) for doc in row["docs"]))
    for row in make_rows(30, seed=4)
]
GREEDY, GOLD = RacSettings(), RacSettings(target="gold")
FREE = RacSettings(source="free", max_tokens=12)


@pytest.fixture(scope="module")
def encoder():
    texts = [text for row in ROWS for text in (row.query, *(doc.docid for doc in row.docs))]
    tokenizer = train_bpe(texts, 300)
    return QueryEncoder(load_template("compact"), tokenizer, DocIDTokenizer(tokenizer, "eos", True), 256, seed=0)


@pytest.fixture(scope="module")
def job(encoder):
    tokenizer = encoder.tokenizer
    model = tiny_model(vocab_size=len(tokenizer), initializer_range=0.5).eval()
    collator = TrieTargetCollator(TargetSettings(), pad_id(tokenizer), prune=False)
    return Job(Recipe(), 1, encoder, collator, model)


def picks_of(job, rows=ROWS):
    return [Pick(place, place, -1, row, job.encoder.encode(row, -1)) for place, row in enumerate(rows)]


def decoded(model, prompt, docids):
    """Constrained greedy decoding: one plain forward a token."""
    written = []
    while True:
        allowed = sorted({ids[len(written)] for ids in docids if ids[: len(written)] == written and ids != written})
        if not allowed:
            return written
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *written]])).logits[0, -1]
        written.append(max(allowed, key=lambda token: float(logits[token])))


def test_answers_and_corrections_are_those_of_plain_constrained_decoding(job):
    encode, seen = job.encoder.encode, 0
    for pick, record in zip(picks_of(job), rac_records(job, GREEDY, picks_of(job)), strict=True):
        docids, top = [list(ids) for ids in pick.query.docid_ids], pick.row.docs[0].docid
        answer = pick.query.docids[docids.index(decoded(job.model, pick.query.prompt_ids, docids))]
        assert record["previous"] == answer
        assert record["right"] == (answer == top)
        assert record["outcome"] == ("right" if answer == top else "row")
        if answer != top:
            shown = encode(pick.row, -1, attempt=Attempt(answer, top))
            assert record["correction"] == decoded(job.model, shown.prompt_ids, docids)
            assert record["corrected"] == (record["correction"] == docids[0])
            seen += 1
    assert 5 < seen < len(ROWS)


def test_free_answers_are_those_of_generate(job):
    end = job.encoder.tokenizer.eos_token_id
    records = rac_records(job, replace(FREE, target="gold"), picks_of(job))
    for pick, record in zip(picks_of(job), records, strict=True):
        prompt = torch.tensor([pick.query.prompt_ids])
        whole = job.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, eos_token_id=end
        )
        tokens = whole[0, prompt.shape[1] :].tolist()
        assert record["previous"] == job.encoder.tokenizer.decode([token for token in tokens if token != end])


class Watched(Job):
    """Notes which streams of random numbers are drawn from."""

    streams: ClassVar[list[int]] = []

    def draws(self, pick, length, beta=1.0, per="token", stream=0):
        self.streams.append(stream)
        return super().draws(pick, length, beta, per, stream)


@pytest.mark.parametrize("settings", [GREEDY, FREE])
def test_corrections_are_drawn_independently_of_the_answers(job, settings):
    Watched.streams.clear()
    rac_records(Watched(job.recipe, 1, job.encoder, job.collator, job.model), settings, picks_of(job))
    assert Watched.streams[: len(ROWS)] == [1] * len(ROWS)
    assert set(Watched.streams[len(ROWS) :]) == {2}
    assert (job.draws(picks_of(job)[0], 4, stream=1).uniform != job.draws(picks_of(job)[0], 4, stream=2).uniform).all()


@pytest.mark.parametrize("settings", [replace(GREEDY, temperature=1.0), replace(FREE, temperature=1.0)])
def test_rows_are_the_same_in_any_batch(job, settings):
    together, picks = rac_records(job, settings, picks_of(job)), picks_of(job)
    for start in range(3):
        assert rac_records(job, settings, picks[start::3]) == together[start::3]
    other = rac_records(replace(job, iteration=2), settings, picks)
    assert [record["previous"] for record in other] != [record["previous"] for record in together]


def test_prompts_hold_the_answer_and_not_the_reference(job):
    """The documents stay in the prompt; the target is the correction, token for token as it was written."""
    for record in rac_records(job, GREEDY, picks_of(job)):
        row = ROWS[record["row"]]
        if record["outcome"] != "row":
            continue
        query = rac_query(record, row, job.encoder)
        plain = job.encoder.encode(row, -1)
        ids = job.encoder.tokenizer.encode
        expected = job.encoder.render(row, row.docs, -1) + f" {record['previous']} ; :"
        assert list(query.prompt_ids) == [1, *ids(expected, add_special_tokens=False)]
        assert query.prompt_ids[: len(plain.prompt_ids) - 1] == plain.prompt_ids[:-1]
        assert list(query.docid_ids) == [record["correction"]]
        assert (query.ranks, query.counted) == ([1], [len(record["correction"])])


def test_gold_targets_are_the_list_without_the_answer(job):
    for record in rac_records(job, GOLD, picks_of(job)):
        row = ROWS[record["row"]]
        if record["outcome"] == "row":
            query = rac_query(record, row, job.encoder)
            left = [doc.docid for doc in row.docs if doc.docid != record["previous"]]
            assert list(query.docids) == left
            assert query.ranks == list(range(1, len(left) + 1))
            assert [list(ids) for ids in query.docid_ids] == [job.encoder.docid_tokenizer(docid) for docid in left]


def listed(docids, ranks):
    return TokenizedQuery("q", [1], docids, [[ord(name), 2] for name in docids], [2] * len(docids), ranks)


@pytest.mark.parametrize(
    ("ranks", "answer", "left", "new_ranks"),
    [
        ([1, 2, 3], "b", ["a", "c"], [1, 2]),
        ([1, 2, 3], "c", ["a", "b"], [1, 2]),
        ([1, 2, 2], "b", ["a", "c"], [1, 2]),
        ([1, 1, 3], "c", ["a", "b"], [1, 1]),
        ([1, 2, 3], "a", ["a", "b", "c"], [1, 2, 3]),  # right: there is nothing to correct
        ([1, 1, 3], "b", ["a", "b", "c"], [1, 1, 3]),
        ([1, 2, 3], "elsewhere", ["a", "b", "c"], [1, 2, 3]),
    ],
)
def test_without_an_answer_the_ranks_close_up(ranks, answer, left, new_ranks):
    query = without(listed(["a", "b", "c"], ranks), answer)
    assert (list(query.docids), list(query.ranks)) == (left, new_ranks)


def test_what_is_left_out_is_counted(job, encoder):
    """Answers = rows + right ones + those that do not fit + unfinished ones."""
    lengths = sorted(len(pick.query.prompt_ids) + pick.longest for pick in picks_of(job))
    tight = replace(job, encoder=replace(encoder, max_length=lengths[-1]))  # the ordinary prompts just fit
    records = rac_records(tight, GREEDY, picks_of(tight))
    rows, counts = rac_selected(records, GREEDY, seed=0)
    right = sum(record["outcome"] == "right" for record in records)
    assert 0 < counts["too_long"] < len(ROWS)
    assert counts["answers"] == len(ROWS) == len(rows) + right + counts["too_long"] + counts["unfinished"]
    assert counts["right_answers"] * len(ROWS) == right == sum(record["right"] for record in records)
    for record in rows:
        query = rac_query(record, ROWS[record["row"]], tight.encoder)
        assert len(query.prompt_ids) + len(query.docid_ids[0]) <= lengths[-1]
        assert query.num_dropped == 0


def test_corrections_without_an_end_are_left_out(job):
    rows, counts = rac_selected(rac_records(job, FREE, picks_of(job)), FREE, seed=0)
    end = job.encoder.tokenizer.eos_token_id
    assert counts["unfinished"] == len(ROWS) - len(rows) > 0
    assert all(record["correction"][-1] == end for record in rows)


@pytest.mark.parametrize("keep_right", [0.0, 0.2, 0.5, 0.99])
def test_right_answers_are_kept_up_to_their_share(job, keep_right):
    settings = replace(GOLD, keep_right=keep_right)
    records = rac_records(job, settings, picks_of(job))
    rows, counts = rac_selected(records, settings, seed=0)
    right = sum(record["right"] for record in rows)
    assert counts["rows_of_right_answers"] == right <= keep_right * len(rows)
    assert (right > 0) == (keep_right > 0)
    assert [record["place"] for record in rows] == sorted(record["place"] for record in rows)
    assert rac_selected(records, settings, seed=0)[0] == rows


def test_the_share_of_right_answers_is_not_cut_by_rounding():
    """0.12 * 22 / 0.88 is 2.9999999999999996, and 3 of 25 rows are 12%."""
    rows = [{"place": place, "right": place < 10, "outcome": "row"} for place in range(32)]
    kept, counts = rac_selected(rows, replace(GOLD, keep_right=0.12), seed=0)
    assert (counts["rows_of_right_answers"], len(kept)) == (3, 25)


REFUSED = {
    "keep_right": (RacSettings(keep_right=1.0), "keep_right=1.0 must be at least 0 and below 1"),
    "temperature": (RacSettings(temperature=float("inf")), "temperature=inf must be a finite number"),
    "free without a limit": (RacSettings(source="free"), r"max_tokens goes with self_training\.rac\.source=free"),
    "a limit that is not read": (RacSettings(max_tokens=5), "set it there, and only there"),
    "no tokens": (RacSettings(source="free", max_tokens=0), "max_tokens=0 must be at least 1"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        settings.check()
