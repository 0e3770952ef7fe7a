"""stoical train and evaluate as a user meets them: errors in one line, a dry run, a run and its evaluation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers

from stoical.build.encoder import build_tokenizer
from stoical.common.files import file_sha256
from stoical.config.loading import load_recipe
from stoical.encoding.tokenization import train_bpe
from tests.support.small_data import TINY, write_dataset

Cli = Callable[..., tuple[int, str, str]]
ROW = {"query_id": "q1", "query": "deer", "docs": [{"docid": "ruminant"}, {"docid": "mammal"}]}


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., list[str]]:
    """The words of a tiny run on a tiny dataset; a test's own words replace those of the same key."""
    if not (tmp_path / "data").exists():
        write_dataset(tmp_path / "data")

    def words(*own: str) -> list[str]:
        basic = ["recipe=wordnet_alpha2,small", f"data.path={tmp_path / 'data'}", f"output={tmp_path / 'run'}", *TINY]
        by_key = {word.partition("=")[0]: word for word in [*basic, *own]}
        return list(by_key.values())

    return words


def write_rows(path: Path, *rows: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def error_of(result: tuple[int, str, str]) -> str:
    """The message of a run that a mistake of the user's stopped."""
    status, out, err = result
    assert status == 2
    assert "Traceback" not in out + err
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert err.splitlines()[-1] == lines[0], "nothing comes after it, so it is one line"
    return lines[0]


BAD_SETTINGS = {
    "unknown recipe": ("recipe=wordnet_alpha2x,small", "recipe 'wordnet_alpha2x' does not exist. Did you mean"),
    "misspelled key": (
        "promt.max_length=5",
        "'promt.max_length' does not exist. Did you mean 'prompt.max_length'?",
    ),
    "misspelled training key": ("training.max_step=5", "Did you mean 'training.max_steps'?"),
    "misspelled key of the model's config": ("model.config.hiden_size=16", "Did you mean 'model.config.hidden_size'?"),
    "wrong type in the model's config": (
        "model.config.hidden_size=wide",
        "model.config: TypeError: Field 'hidden_size'",
    ),
    "impossible model config": (
        "model.config.num_attention_heads=3",
        "model.config: ValueError: RoPE requires an even",
    ),
    "wrong type": ("seed=one", "seed: Value 'one'"),
    "no list": ("eval.metrics=mrr", "eval.metrics: must be a list, such as [a,b]"),
    "null": ("eval.metrics=null", "eval.metrics: must have a value, which null is not"),
    "no such dataset": (
        "data.path=/nowhere/data",
        "there is no dataset directory /nowhere/data; for WordNet make it with: stoical prepare wordnet",
    ),
    "dataset elsewhere": ("data.path=/nowhere/data", "data.path=DIR names one that is elsewhere"),
    "prompt over the limit": ("prompt.max_length=8", "raise prompt.max_length or shorten the document"),
    "flash attention": ("model.attn_implementation=flash_attention_2", "use one of trie_sdpa, sdpa, eager"),
    "sliding window": ("model.config.sliding_window=8", "attends to a sliding window of 8 tokens, shorter than prompt"),
    "recurrent model": ("model.name=mamba", "model 'mamba' has recurrent or hybrid layers"),
    "no language model": ("model.name=vit", "model.name=vit: Unrecognized configuration class"),
    "unknown architecture": ("model.name=mistrl", "model.name=mistrl: Unrecognized model identifier: mistrl"),
    "no such weights": ("model.from_scratch=false", "a local directory works without a network"),
    "vocabulary too small": (
        "model.config.vocab_size=100",
        "the tokenizer has ids for 300 tokens but the model's vocabulary only",
    ),
    "bpe too small": ("tokenizer.vocab_size=10", "tokenizer.vocab_size=10 is too small"),
    "no such template": ("prompt.template=wordnt", "prompt.template=wordnt: no such file"),
    "template without its texts": ("prompt.template=esci", "has no text, which the prompt template writes"),
    "batch that cannot be cut": ("training.per_device_train_batch_size=0", "must be at least 1"),
    "unknown schedule": ("training.lr_scheduler_type=cosin", "training: cosin is not a valid SchedulerType"),
    "no such checkpoint to resume": ("resume=/nowhere/run", "resume=/nowhere/run: no such checkpoint directory"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_a_bad_setting_stops_training_with_one_line(case: str, cli: Cli, tiny: Callable[..., list[str]]) -> None:
    word, message = BAD_SETTINGS[case]
    result = cli("train", *tiny(word))
    assert message in error_of(result)
    assert result[1] == "", "nothing was trained"


BAD_ROWS = {
    "no docs": (ROW | {"docs": []}, "train.jsonl:2: 'docs' is empty"),
    "duplicate docIDs": (ROW | {"docs": [{"docid": "a"}, {"docid": "a"}]}, "train.jsonl:2: the docid 'a' occurs twice"),
    "empty docID": (ROW | {"docs": [{"docid": ""}]}, "train.jsonl:2: docs[0]: 'docid' is empty"),
    "misspelled key": (ROW | {"negative": []}, "train.jsonl:2: unknown key 'negative'; did you mean 'negatives'?"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_told_with_its_line(case: str, cli: Cli, tiny: Callable[..., list[str]], tmp_path: Path) -> None:
    bad, message = BAD_ROWS[case]
    write_rows(tmp_path / "data" / "train.jsonl", ROW | {"query_id": "q0"}, bad)
    assert message in error_of(cli("train", *tiny()))


@pytest.mark.parametrize("dry_run", ["true", "false"])
def test_docids_with_the_same_token_ids_are_told_with_the_query(
    dry_run: str, cli: Cli, tiny: Callable[..., list[str]], tmp_path: Path
) -> None:
    """The BPE writes a word's beginning as a space, so that a docID that begins with one is the same."""
    write_rows(tmp_path / "data" / "train.jsonl", ROW | {"docs": [{"docid": "mammal"}, {"docid": " mammal"}]})
    error = error_of(cli("train", *tiny(f"dry_run={dry_run}")))
    assert "query 'q1': docIDs 'mammal' and ' mammal' have the same token ids" in error


BAD_TEST_ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "too long": ({"query": "deer " * 500}, "query 'q1': the prompt with its top document alone is"),
    "same tokens": ({"docs": [{"docid": "mammal"}, {"docid": " mammal"}]}, "have the same token ids"),
}


@pytest.mark.parametrize("dry_run", ["true", "false"])
@pytest.mark.parametrize("case", BAD_TEST_ROWS)
def test_a_query_that_cannot_be_evaluated_stops_the_run_before_it_trains(
    case: str, dry_run: str, cli: Cli, tiny: Callable[..., list[str]], tmp_path: Path
) -> None:
    change, message = BAD_TEST_ROWS[case]
    write_rows(tmp_path / "data" / "test.jsonl", ROW | {"query_id": "q0"}, ROW | change)
    error = error_of(cli("train", *tiny(f"dry_run={dry_run}")))
    assert "error: data/test: " in error and message in error
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_without_evaluations_the_test_split_is_not_looked_at(
    cli: Cli, tiny: Callable[..., list[str]], tmp_path: Path
) -> None:
    write_rows(tmp_path / "data" / "test.jsonl", ROW | BAD_TEST_ROWS["too long"][0])
    assert cli("train", *tiny("training.eval_strategy=no"))[0] == 0


def test_a_docid_that_tokenizes_to_nothing_is_told_with_the_query(
    cli: Cli, tiny: Callable[..., list[str]], tmp_path: Path
) -> None:
    tokenizer = train_bpe(["deer ruminant mammal"], 290)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("#", "")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    write_rows(tmp_path / "data" / "train.jsonl", ROW | {"docs": [{"docid": "mammal"}, {"docid": "##"}]})
    words = tiny(f"tokenizer.name={tmp_path / 'tokenizer'}", "tokenizer.vocab_size=null")
    assert "query 'q1': docID '##' tokenizes to nothing" in error_of(cli("train", *words))


@pytest.mark.parametrize("missing", ["train", "test", "manifest"])
def test_a_missing_file_of_the_dataset_is_told(
    missing: str, cli: Cli, tiny: Callable[..., list[str]], tmp_path: Path
) -> None:
    path = next((tmp_path / "data").glob(f"{missing}.*"))
    path.unlink()
    message = "manifest.json is missing" if missing == "manifest" else f"has no split '{missing}'"
    assert message in error_of(cli("train", *tiny()))


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_an_output_that_cannot_be_written_is_told_before_the_work(
    command: str, cli: Cli, tiny: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "deeper"):
        error = error_of(cli(command, *tiny(f"output={output}")))
        assert f"{tmp_path / 'file'} is not a directory that can be written to" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval.batch_size=4"], "give either checkpoint=DIR (a run or a checkpoint) or recipe=NAME"),
        (["checkpoint=x", "recipe=wordnet_ntp"], "give either checkpoint=DIR"),
        (["checkpoint=/nowhere/run"], "checkpoint=/nowhere/run: no such directory"),
        (
            ["checkpoint={tmp}"],
            "holds no model (config.json), no adapter (adapter_config.json) and no checkpoint-N directory",
        ),
        (["checkpoint={tmp}/bare"], "has no recipe.yaml, so stoical did not save it"),
        (["checkpoint={tmp}/broken"], "recipe.yaml: while parsing"),
    ],
)
def test_a_missing_checkpoint_stops_evaluation_with_one_line(
    words: list[str], message: str, cli: Cli, tmp_path: Path
) -> None:
    for name in ("bare", "broken"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "broken" / "recipe.yaml").write_text("seed: [")
    assert message in error_of(cli("evaluate", *(word.format(tmp=tmp_path) for word in words)))


def test_debug_shows_the_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOICAL_DEBUG", "1")
    with pytest.raises(ValueError, match="recipe 'nothing' does not exist"):
        cli("train", "recipe=nothing")


def test_only_the_first_process_of_a_machine_prints_the_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert cli("train", "recipe=nothing") == (2, "", "")


def test_a_dry_run_shows_what_a_run_would_do(cli: Cli, tiny: Callable[..., list[str]], tmp_path: Path) -> None:
    docs = [{"docid": name} for name in ("ruminant", "mammal", "animal")]
    rows = [ROW | {"query_id": f"q{i}", "query": f"deer{i}", "docs": docs} for i in range(5)]
    write_rows(tmp_path / "data" / "train.jsonl", *rows)
    words = tiny(
        "dry_run=true", "global_batch_size=8", "training.per_device_train_batch_size=4", "tokenizer.vocab_size=320"
    )
    status, out, _ = cli("train", *words)
    assert status == 0
    assert "; 3 steps of 8 queries = 1 processes x 4 x 2 accumulated" in out
    assert "data/train: 5 queries, data/test: " in out
    for number in (0, 1):
        assert f"--- query q{number}: " in out
        assert f"; deer{number} :" in out, "the prompt as the model reads it"
    assert "--- query q2" not in out
    tokenizer = build_tokenizer(load_recipe(*words))
    assert f"{tokenizer.bos_token_id}:'<s>'" in out, "prompt ids with their tokens"
    trie = out[out.index("trie (token id, token, weight in the loss)") : out.index("--- query q1")]
    eos = tokenizer.eos_token_id
    leaves = [line.split() for line in trie.splitlines() if "<- rank" in line]
    assert sorted(leaves) == [
        [str(eos), "'</s>'", "0.1111", "<-", "rank", "3"],  # lambda(r) = 1 / r^2
        [str(eos), "'</s>'", "0.25", "<-", "rank", "2"],
        [str(eos), "'</s>'", "1", "<-", "rank", "1"],
    ]
    memory = out[out.index("memory, estimated") :]
    assert "a micro-batch of 4 x " in memory
    for part in ("weights", "gradients", "optimizer", "activations", "logits"):
        assert f"{part} 0.0" in memory
    assert not (tmp_path / "run").exists(), "nothing is written"


def test_a_dry_run_shows_no_weights_of_a_loss_without_any(cli: Cli, tiny: Callable[..., list[str]]) -> None:
    status, out, error = cli("train", *tiny("dry_run=true", "recipe=wordnet_ranking,small"))
    assert (status, error) == (0, "")
    assert "trie (token id, token; no node has a weight: the loss is list_mle, of the docIDs' scores):" in out
    assert "'</s>'  <- rank 1" in out


def test_a_dry_run_without_the_models_config_still_shows_the_prompts(cli: Cli, tiny: Callable[..., list[str]]) -> None:
    status, out, _ = cli("train", *tiny("dry_run=true", "model.from_scratch=false"))
    assert status == 0
    assert "--- query q0: " in out
    assert "memory: not estimated" in out


@pytest.fixture(scope="module")
def trained(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `data` and a finished `run` of three steps, for this file to write to."""
    return shutil.copytree(trained.parent, tmp_path_factory.mktemp("copied"), dirs_exist_ok=True)


def test_a_run_can_be_evaluated_from_its_directory_alone(trained: Path, cli: Cli) -> None:
    status, out, err = cli("evaluate", f"checkpoint={trained / 'run'}")
    assert (status, err) == (0, "")
    metrics = json.loads((trained / "run" / "eval" / "metrics.json").read_text())
    rows = (trained / "run" / "eval" / "per_query.jsonl").read_text().splitlines()
    assert metrics["num_queries"] == len(rows) == 6
    assert f"{100 * metrics['ndcg']:.2f}" in out
    assert f"written to {trained / 'run' / 'eval'}" in out
    direct, _, _ = cli("evaluate", f"checkpoint={trained / 'run' / 'checkpoint-3'}", f"output={trained / 'other'}")
    assert direct == 0
    assert json.loads((trained / "other" / "metrics.json").read_text()) == metrics


def test_a_run_that_was_moved_is_called_by_its_new_name(trained: Path, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(trained / "run", tmp_path / "final")
    status, out, _ = cli("evaluate", f"checkpoint={tmp_path / 'final'}", "eval.num_queries=2")
    assert status == 0
    assert "\n| final " in out
    assert (tmp_path / "final" / "eval_2" / "summary.md").read_text().startswith("# final on data/test")


def test_an_evaluation_takes_settings_too(trained: Path, cli: Cli) -> None:
    words = [f"checkpoint={trained / 'run'}", f"output={trained / 'part'}", "eval.num_queries=2", "eval.recall_at=[2]"]
    assert cli("evaluate", *words)[0] == 0
    metrics = json.loads((trained / "part" / "metrics.json").read_text())
    assert metrics["num_queries"] == 2
    assert {name for name in metrics if name.startswith("recall")} == {"recall@2"}
    misspelled = error_of(cli("evaluate", words[0], "evl.num_queries=2"))
    assert "setting 'evl.num_queries' does not exist. Did you mean 'eval.num_queries'?" in misspelled
    assert "eval.mode: Invalid value" in error_of(cli("evaluate", words[0], "eval.mode=greedy"))


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["eval.num_queries=2"], "eval_2"),
        (["eval.mode=greedy_path"], "eval_greedy_path"),
        (["eval.mode=greedy_path", "eval.num_queries=3"], "eval_greedy_path_3"),
        (["eval.score=sum", "eval.num_queries=2"], "eval_sum_2"),
        (["seed=7", "prompt.max_length=400"], "eval_max_length_400_seed_7"),
        (["prompt.template=codes"], "eval_codes"),
        (["checkpoint={run}/checkpoint-2"], "eval_checkpoint-2"),
    ],
)
def test_other_settings_or_another_checkpoint_do_not_overwrite_the_full_evaluation(
    words: list[str], folder: str, trained: Path, cli: Cli
) -> None:
    shutil.copytree(trained / "run" / "checkpoint-3", trained / "run" / "checkpoint-2", dirs_exist_ok=True)
    assert cli("evaluate", f"checkpoint={trained / 'run' / 'checkpoint-3'}")[0] == 0
    before = (trained / "run" / "eval" / "metrics.json").read_text()
    by_key = {word.partition("=")[0]: word for word in [f"checkpoint={trained / 'run'}", *words]}
    status, out, _ = cli("evaluate", *(word.format(run=trained / "run") for word in by_key.values()))
    assert status == 0
    assert f"written to {trained / 'run' / folder}" in out
    assert (trained / "run" / "eval" / "metrics.json").read_text() == before
    metrics = json.loads((trained / "run" / folder / "metrics.json").read_text())
    assert metrics["num_queries"] == {"eval_2": 2, "eval_sum_2": 2, "eval_greedy_path_3": 3}.get(folder, 6)
    assert metrics["mode"] == ("greedy_path" if "greedy_path" in folder else "exact")
    assert (json.loads(before)["num_queries"], json.loads(before)["mode"]) == (6, "exact")


def test_the_untrained_model_can_be_evaluated(cli: Cli, tiny: Callable[..., list[str]], tmp_path: Path) -> None:
    status, out, _ = cli("evaluate", *tiny())
    assert status == 0
    assert json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())["num_queries"] == 6
    titles = [cell.strip() for cell in out.splitlines()[0].strip("|").split("|")]
    assert titles[:3] == ["data/test", "CVR (↓)", "nDCG (↑)"]


def test_the_untrained_model_is_evaluated_beside_its_run(
    trained: Path, cli: Cli, tiny: Callable[..., list[str]], tmp_path: Path
) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    assert cli("evaluate", f"checkpoint={tmp_path / 'run'}")[0] == 0
    before = (tmp_path / "run" / "eval" / "metrics.json").read_text()
    status, out, _ = cli("evaluate", *tiny(f"data.path={trained / 'data'}"))
    assert status == 0
    assert f"written to {tmp_path / 'run' / 'eval_untrained'}" in out
    assert (tmp_path / "run" / "eval" / "metrics.json").read_text() == before


def test_other_data_are_evaluated_into_a_folder_of_their_own(
    trained: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named after the data set, and never over an evaluation on data of the same name."""
    run, other = shutil.copytree(trained / "run", tmp_path / "run"), tmp_path / "other"
    shutil.copytree(trained / "data", other)
    for name in ("train", "test"):
        rows = (other / f"{name}.jsonl").read_text().splitlines(keepends=True)
        (other / f"{name}.jsonl").write_text("".join(rows[:4]))
    assert cli("evaluate", f"checkpoint={run}")[0] == 0
    before = (run / "eval" / "metrics.json").read_text()
    sums = file_sha256(trained / "data" / "test.jsonl"), file_sha256(other / "test.jsonl")
    assert json.loads(before)["data"] == {"name": "data", "split": "test", "sha256": sums[0]}
    for words, folder in (([], "eval_other"), (["eval.mode=greedy_path"], "eval_other_greedy_path")):
        status, out, _ = cli("evaluate", f"checkpoint={run}", f"data.path={other}", *words)
        assert status == 0
        assert out.startswith("| other/test ")
        assert f"written to {run / folder}" in out
        metrics = json.loads((run / folder / "metrics.json").read_text())
        assert metrics["num_queries"] == 4
        assert metrics["data"] == {"name": "other", "split": "test", "sha256": sums[1]}
    assert (run / "eval" / "metrics.json").read_text() == before
    monkeypatch.chdir(trained)
    status, out, _ = cli("evaluate", f"checkpoint={run}", "data.path=data")
    assert f"written to {run / 'eval'}\n" in out, "the run's own data in another place"
    moved = shutil.copytree(trained / "data", tmp_path / "moved")
    assert f"written to {run / 'eval'}\n" in cli("evaluate", f"checkpoint={run}", f"data.path={moved}")[1]
    shutil.copytree(other, tmp_path / "elsewhere" / "other")
    (tmp_path / "elsewhere" / "other" / "test.jsonl").write_text("".join(rows[:3]))
    error = error_of(cli("evaluate", f"checkpoint={run}", f"data.path={tmp_path / 'elsewhere' / 'other'}"))
    assert f"{run / 'eval_other'} holds an evaluation on other/test (SHA-256 {sums[1][:12]}...), and this" in error
    error = error_of(cli("compare", str(run), str(run / "eval_other")))
    assert f"was evaluated on moved/test (SHA-256 {sums[0][:12]}...), and {run / 'eval_other'} on other/test" in error


def test_where_an_evaluation_cannot_go_is_said_before_anything_is_scored(
    trained: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoical.evaluating.run_job", lambda *_: pytest.fail("scored"))
    error = error_of(cli("evaluate", f"checkpoint={trained / 'run'}", f"output={trained / 'run'}"))
    assert f"{trained / 'run'} holds what an evaluation does not write (README.md, " in error
    assert (trained / "run" / "checkpoint-3" / "recipe.yaml").is_file()


@pytest.mark.paints
def test_diagnostics_are_written_where_they_can_be_had(trained: Path, cli: Cli, tmp_path: Path) -> None:
    words = [f"checkpoint={trained / 'run'}", f"output={tmp_path / 'eval'}"]
    assert cli("evaluate", *words, "eval.diagnostics=true")[0] == 0
    found = json.loads((tmp_path / "eval" / "diagnostics.json").read_text())
    assert found["num_queries"] == 6
    assert found["target"]["item"] == "fractional"
    assert found["mismatch"][0] == pytest.approx(0, abs=1e-9), "at the first token there is no prefix to differ in"
    assert (tmp_path / "eval" / "mismatch.png").stat().st_size > 10_000
    (tmp_path / "eval" / "generation.json").write_text("{}")
    assert cli("evaluate", *words)[0] == 0
    for name in ("diagnostics.json", "generation.json"):
        assert not (tmp_path / "eval" / name).exists(), "not of this evaluation"
    for word, message in {
        "eval.diagnostics=maybe": "eval.diagnostics: Value 'maybe'",
        "eval.diagnostics=true eval.mode=greedy_path": "eval.diagnostics=true needs exact scores",
    }.items():
        assert message in error_of(cli("evaluate", *words, *word.split(" ")))


def test_a_run_is_not_overwritten(trained: Path, cli: Cli, tiny: Callable[..., list[str]]) -> None:
    before = (trained / "run" / "metrics.jsonl").read_text()
    words = tiny(f"data.path={trained / 'data'}", f"output={trained / 'run'}")
    error = error_of(cli("train", *words))
    assert f"{trained / 'run'} already holds a run (checkpoint-3); set resume=auto to continue it" in error
    assert (trained / "run" / "metrics.jsonl").read_text() == before


def test_a_finished_run_can_be_resumed_to_go_further(
    trained: Path, cli: Cli, tiny: Callable[..., list[str]], tmp_path: Path
) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    words = tiny(f"data.path={trained / 'data'}", "resume=auto", "training.max_steps=4", "training.save_steps=4")
    error = error_of(cli("train", *words))
    assert "checkpoint-3 was not trained with the settings given: training.max_steps: 3 -> 4. Give those" in error
    status, out, _ = cli("train", *words, "resume_force=true")
    assert status == 0
    assert "trained 4 steps; evaluate with: stoical evaluate checkpoint=" in out
    assert (tmp_path / "run" / "checkpoint-4" / "recipe.yaml").is_file()
