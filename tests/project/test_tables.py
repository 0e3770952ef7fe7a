"""examples/tables: verdicts by hand, jobs that are done and are not, and a run of a row."""

from __future__ import annotations

import json

import pytest

from examples.tables.__main__ import Options, parse_sections, parse_seeds, report, run
from examples.tables.claims import ITEM, NTP, Comparison, judged, spearman, verdicts
from examples.tables.listed import listed_metrics
from examples.tables.rows import LOSSES, SECTIONS, TABLE_1, TABLE_3
from examples.tables.runs import Job, _check, job_of
from stoical.objectives.ranking.losses import LOSSES as RANKING_LOSSES
from tests.support.small_rows import result

METRICS = ["cvr", "ndcg", *(f"recall@{k}" for k in range(1, 6)), "invalid_rate"]


def results(change=lambda name, metric: 0.0):
    """Two seeds of every row, all the same but for a change."""
    rows = [*TABLE_1, *TABLE_3]
    return {row: [{m: 0.5 + change(row, m) + 0.001 * s for m in METRICS} for s in (0, 1)] for row in rows}


def verdict_of(found, words):
    (one,) = [verdict for verdict in verdicts(found) if words in verdict.claim]
    return one


def test_the_rows_are_the_papers_and_the_losses_all_there_are():
    assert (len(TABLE_1), len(TABLE_3)) == (12, 9)
    assert [*LOSSES] == [*RANKING_LOSSES]


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([(0.1, 0.2), (0.01, 0.3)], "replicates in miniature"),
        ([(0.1, 0.2), (-0.01, 0.3)], "cannot be told"),
        ([(0.1, 0.2), (0.0, 0.0)], "cannot be told"),
        ([(0.1, 0.2), (-0.1, -0.3)], "does not replicate"),
        ([(0.1,), (0.2,)], "cannot be told"),
    ],
)
def test_a_verdict_by_hand(differences, verdict):
    found = judged("a claim", "section 0", [Comparison(str(place), own) for place, own in enumerate(differences)])
    assert found.verdict == verdict
    assert found.line().startswith(f"{verdict}: a claim (section 0). ")
    assert json.loads(json.dumps(found.to_json()))["verdict"] == verdict


@pytest.mark.parametrize(
    ("differences", "shown"),
    [
        ([(0.1, 0.2), (0.01, 0.3)], "0"),  # all hold: the least
        ([(0.1, 0.2), (-0.01, 0.9)], "1"),  # one does not, though its mean is larger
        ([(-0.5, 0.2), (-0.1, -0.1)], "1"),  # one fails, though its mean is larger
    ],
)
def test_the_line_shows_the_comparison_that_decides(differences, shown):
    found = judged("a claim", "section 0", [Comparison(str(place), own) for place, own in enumerate(differences)])
    assert f"least: {shown}: " in found.line()


def test_equal_results_tell_nothing():
    assert {verdict.verdict for verdict in verdicts(results())} == {"cannot be told"}


def test_claims_follow_the_numbers():
    """CVR lower everywhere but for NTP; one-hot targets at alpha = 2 best in nDCG, and worst; nDCG rising with beta."""
    lower = results(lambda name, metric: -0.1 if metric == "cvr" and name != NTP else 0.0)
    assert verdict_of(lower, "lowers CVR").verdict == "replicates in miniature"
    best = results(lambda name, metric: 0.1 if name == ITEM else 0.0)
    assert verdict_of(best, "surpasses").verdict == "replicates in miniature"
    assert verdict_of(best, "best R@4").verdict == "replicates in miniature"
    worst = results(lambda name, metric: -0.1 if name == ITEM else 0.0)
    assert verdict_of(worst, "surpasses").verdict == "does not replicate"

    def rising(name, metric):
        return 0.01 * int(name.rpartition("beta")[2]) if name in TABLE_3 and metric == "ndcg" else 0.0

    assert verdict_of(results(rising), "from 1 to 7").verdict == "replicates in miniature"
    assert verdict_of(results(rising), "trend stops").verdict == "does not replicate"


def test_spearman_by_hand():
    assert spearman([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 1, 2]) == pytest.approx(-0.5)
    assert spearman([1, 2, 3], [1, 1, 1]) == 0


def test_a_result_of_other_settings_is_not_taken(tmp_path):
    job = job_of("wordnet_ntp", TABLE_1["wordnet_ntp"], tmp_path, 0, 5, "wordnet_alpha2", [])
    assert not job.done
    job.directory.mkdir()
    (job.directory / "result.json").write_text(json.dumps({"settings": job.settings}))
    assert job.done
    other = job_of("wordnet_ntp", TABLE_1["wordnet_ntp"], tmp_path, 0, 6, "wordnet_alpha2", [])
    with pytest.raises(ValueError, match="holds a result of other settings"):
        assert other.done


def test_who_is_taught_waits_for_the_teacher_of_the_seed(tmp_path):
    extra = ["data.path=elsewhere", "eval.num_queries=3"]
    job = job_of("margin_mse", LOSSES["margin_mse"], tmp_path, 2, 5, "wordnet_alpha2", extra)
    assert job.teacher == tmp_path / "wordnet_alpha2-2"
    assert f"data.path={tmp_path / 'taught-2'}" in job.settings
    assert "data.path=elsewhere" not in job.settings
    assert job_of("list_mle", LOSSES["list_mle"], tmp_path, 2, 5, "wordnet_alpha2", extra).teacher is None


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"section 'table1' does not exist\. Did you mean 'table_1'"):
        parse_sections("table1")
    with pytest.raises(ValueError, match="losses needs table_1, whose wordnet_alpha2"):
        parse_sections("losses")
    with pytest.raises(ValueError, match="seeds=0,x must be whole numbers"):
        parse_seeds("0,x")
    with pytest.raises(ValueError, match="must be at least 1"):
        run(Options(steps=0))


def test_metrics_within_the_list_leave_negatives_out():
    """The negative has the best score; of the documents the second comes first."""
    row = result(docids=["a", "b", "c", "x"], ranks=[1, 2, 3, 4], scores=[-2.0, -1.0, -3.0, 0.0], num_negatives=1)
    found = listed_metrics([row])
    assert (found["recall@1"], found["recall@2"]) == (0.0, 1.0)
    assert "cvr" not in found


def test_a_failed_run_names_its_log(tmp_path):
    class Failed:
        def exception(self):
            return RuntimeError("no")

    with pytest.raises(ValueError, match=r"ntp-0 failed: no; its log is .*ntp-0\.log"):
        _check(Failed(), Job(tmp_path / "ntp-0", (), 0, 1))


def test_the_report_has_all_of_it(tmp_path, capsys):
    half = dict.fromkeys(METRICS, 0.5)
    found = {
        section: {name: [{"metrics": half, "listed": half, "train_seconds": 9.0}] * 2 for name in rows}
        for section, rows in SECTIONS.items()
    }
    report(Options(seeds="0,1"), [0, 1], found, tmp_path)
    written = json.loads((tmp_path / "tables.json").read_text())
    assert written["sections"] == found
    assert len(written["verdicts"]) == 10
    assert (tmp_path / "table_1.png").is_file()
    printed = capsys.readouterr().out
    assert printed.count("cannot be told: ") == 10
    assert "lambda = 1/r^2, trie, mu = 1/r^25" in printed
