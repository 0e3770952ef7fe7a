"""benchmarks/gpu.py at a tiny size on the CPU; its operation counts are PyTorch's own; its empty tables are empty."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu, measure
from benchmarks.flops import pass_flops, peak_flops
from stoical.training.memory import model_shape
from tests.support.tiny_model import tiny_model

BATCHES = "wordnet:2x12x4,esci:1x30x6"


def run(tmp_path, monkeypatch, *words):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["gpu", *words])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FlexAttention is not compiled on a CPU
        assert gpu.main() == 0
    return json.loads((tmp_path / "gpu.json").read_text()), (tmp_path / "gpu.md").read_text()


def test_every_variant_runs_on_the_cpu_and_agrees(tmp_path, monkeypatch):
    words = ("size=tiny", f"batches={BATCHES}", "rounds=1", "budget=0", "dtype=float32", "pointwise_tokens=100")
    record, text = run(tmp_path, monkeypatch, *words)
    assert [result["batch"] for result in record["results"]] == BATCHES.split(",")
    for result in record["results"]:
        assert set(result["difference"]) == set(gpu.PACKED) == set(gpu.VARIANTS) - {"plain", "pointwise"}
        assert max(result["difference"].values()) < 1e-5
        assert all(facts["seconds"] for facts in result["scoring"].values())
        failed = {name for name, facts in result["training"].items() if "failed" in facts}
        assert failed == {
            "rectangle, FlexAttention",
            "flat row, FlexAttention",
        }  # PyTorch has no backward pass of it for a CPU
        assert result["training"]["flat row"]["flops"] == 3 * result["scoring"]["flat row"]["flops"]
    assert text.count("FlexAttention | not supported ") == 4
    assert "not measured" not in text


def test_checkpointing_and_bfloat16(tmp_path, monkeypatch):
    words = ("size=tiny", "batches=wordnet:2x12x4", "rounds=1", "budget=0", "checkpointing=true")
    record, _ = run(tmp_path, monkeypatch, *words)
    [result] = record["results"]
    assert result["training"]["cache"]["failed"] == "not supported"
    assert result["training"]["flat row, varlen"]["seconds"]
    assert 1e-4 < max(result["difference"].values()) < 0.5


def test_the_committed_tables_are_the_scripts_own(tmp_path, monkeypatch):
    committed = json.loads((measure.RESULTS / "gpu.json").read_text())
    if "measure" in committed["settings"] and committed["settings"]["measure"]:
        pytest.skip("they have been measured")
    written = (measure.RESULTS / "gpu.md").read_text()
    record, text = run(tmp_path, monkeypatch, "measure=false")
    assert text == written
    assert record == committed
    rows = [line for line in text.splitlines() if line.startswith("| wordnet") or line.startswith("| esci")]
    assert len(rows) == 2 * 2 * len(gpu.VARIANTS)
    assert all(row.count("not measured") == len(gpu.COLUMNS) for row in rows)


@pytest.mark.parametrize(
    ("word", "said"), [("batches=wordnet:8x320", "is not of the form"), ("size=7b", "size=7b needs a CUDA GPU")]
)
def test_mistakes_are_told(tmp_path, monkeypatch, capsys, word, said):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu", *{"size": "size=tiny", word.split("=")[0]: word}.values()])
    assert gpu.main() == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("training", [False, True])
def test_operations_are_those_that_pytorch_counts(training):
    model = tiny_model("eager", hidden_size=64, intermediate_size=224, vocab_size=512)
    ids, slots = torch.randint(3, 512, (2, 24)), 5
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=ids, logits_to_keep=slots, use_cache=False).logits
        if training:
            logits.sum().backward()
    shape = model_shape(model, model.config)
    pairs = 2 * 24 * 24  # masked pairs are computed too
    expected = pass_flops(shape, ids.numel(), 2 * slots, pairs, training)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_peaks_are_found_by_name():
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("Some other card") is None
