"""The noun graph and NLTK: the shipped one equals NLTK's, and how a missing corpus is told or downloaded.

The corpus is looked for in ../shared/data/nltk_data and in NLTK's own data path; nothing is downloaded.
"""

from __future__ import annotations

import gzip
import threading
import time
from pathlib import Path

import pytest

from data_prep.wordnet.graph import bundled_graph, ensure_corpus, nltk_graph_text
from stoical.data.files import load_manifest
from tests.support.commands import run
from tests.support.root import ROOT


@pytest.fixture
def nltk_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "path", [str(ROOT.parent / "shared/data/nltk_data"), *nltk.data.path])
    try:
        nltk.data.find("corpora/wordnet/data.noun")
    except LookupError:
        pytest.skip("NLTK's wordnet corpus is neither in ../shared/data/nltk_data nor in NLTK's data path")


@pytest.mark.usefixtures("nltk_corpus")
def test_the_shipped_graph_equals_the_one_rebuilt_from_nltk() -> None:
    text, licence = nltk_graph_text(download=False)
    assert gzip.decompress((ROOT / "data_prep/wordnet/wordnet_nouns.txt.gz").read_bytes()).decode() == text
    assert (ROOT / "data_prep/wordnet/WORDNET_LICENSE").read_text(encoding="utf-8") == licence


@pytest.mark.usefixtures("nltk_corpus")
def test_names_and_pointers_agree_with_nltk() -> None:
    from nltk.corpus import wordnet as nltk_wordnet

    graph = bundled_graph()
    for name in [*list(graph.parents)[::400], "alabama.n.01", "deer.n.01"]:
        synset = nltk_wordnet.synset(name)
        above = {parent.name() for parent in synset.hypernyms() + synset.instance_hypernyms()}
        assert (synset.name(), above) == (name, set(graph.parents[name]))


@pytest.mark.usefixtures("nltk_corpus")
def test_nltk_as_source_gives_the_same_rows(tmp_path: Path) -> None:
    for source in ("bundled", "nltk"):
        words = [f"out={tmp_path}/{source}", f"source={source}", "subtree=deer.n.01", "test_size=5"]
        assert run("prepare", "wordnet", *words) == 0
    bundled, nltk = load_manifest(tmp_path / "bundled"), load_manifest(tmp_path / "nltk")
    assert bundled | {"source": "nltk"} == nltk
    assert bundled["files"].keys() == {"train.parquet", "test.parquet", "LICENSE"}


@pytest.fixture
def no_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty NLTK data directory, the only one that NLTK searches."""
    nltk = pytest.importorskip("nltk")
    directory = tmp_path / "nltk_data"
    directory.mkdir(mode=0o700)
    monkeypatch.setattr(nltk.data, "path", [str(directory)])
    return directory


def test_a_missing_corpus_is_told_with_the_way_out(no_corpus: Path) -> None:
    with pytest.raises(ValueError, match="add download=true, or set NLTK_DATA") as error:
        nltk_graph_text(download=False)
    assert str(no_corpus) in str(error.value)


def test_one_of_many_downloads_and_the_others_wait(no_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def slow_download(name: str, download_dir: str) -> bool:
        calls.append((name, download_dir))
        time.sleep(0.3)
        corpus = Path(download_dir) / "corpora/wordnet"
        corpus.mkdir(parents=True)
        (corpus / "data.noun").write_text("")
        return True

    monkeypatch.setattr("nltk.download", slow_download)
    threads = [threading.Thread(target=ensure_corpus, args=(True,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [("wordnet", str(no_corpus))]


def test_a_failed_download_is_told(no_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nltk.download", lambda *_, **__: False)
    with pytest.raises(ValueError, match=r"NLTK could not download 'wordnet' to .*nltk_data"):
        ensure_corpus(download=True)
