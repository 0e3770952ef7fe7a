"""baselines/taxonomy.py: closure, distances, loss, steps and measurements against loops; and a run that learns."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from data_prep.wordnet.graph import bundled_graph
from stoical.baselines.options import Space
from stoical.baselines.taxonomy import Closure, Embedding, batch_loss, descend, distance, reconstruction
from stoical.runs.lock import only_run
from tests.support.commands import run

TOY = {"r": (), "a": ("r",), "b": ("a",), "c": ("a", "d"), "d": ("r",), "e": ("c", "b"), "out": ("r",)}
BELOW_A = {("b", "a"), ("c", "a"), ("e", "a"), ("e", "b"), ("e", "c")}


def test_the_closure_has_all_paths_within_the_subtree() -> None:
    closure = Closure.of(TOY, "a")
    pairs = {(closure.names[c], closure.names[p]) for c, p in zip(closure.child, closure.ancestor, strict=True)}
    assert closure.names == ["a", "b", "c", "e"] and pairs == BELOW_A
    assert (np.diff(closure.keys) > 0).all()


def test_wordnets_mammals_and_nouns() -> None:
    """Nickel and Kiela (2017) count 743,241 relations among 82,115 nouns."""
    parents = bundled_graph().parents
    mammals, nouns = Closure.of(parents, "mammal.n.01"), Closure.of(parents, "entity.n.01")
    assert (len(mammals.names), len(mammals.child)) == (1182, 6542)
    assert (len(nouns.names), len(nouns.child)) == (82115, 743241)


def by_hand(space: Space, left: list[float], right: list[float]) -> float:
    gap = math.fsum((a - b) ** 2 for a, b in zip(left, right, strict=True))
    if space == "euclidean":
        return math.sqrt(gap)
    rooms = [1 - math.fsum(a * a for a in vector) for vector in (left, right)]
    return math.acosh(1 + 2 * gap / (rooms[0] * rooms[1]))


def vectors(count: int, seed: int) -> torch.Tensor:
    """Inside the unit ball, some of them close to its edge."""
    draw = torch.Generator().manual_seed(seed)
    points = torch.nn.functional.normalize(torch.randn(count, 3, generator=draw, dtype=torch.float64))
    return points * torch.rand(count, 1, generator=draw, dtype=torch.float64) ** 0.2


@pytest.mark.parametrize("space", ["euclidean", "poincare"])
def test_distances_and_loss_by_hand(space: Space) -> None:
    child, ancestor = vectors(4, 0), vectors(4, 1)
    negative, masked = vectors(12, 2).view(4, 3, 3), torch.zeros(4, 3, dtype=torch.bool)
    masked[0], masked[1, 2] = True, True
    found = batch_loss(space, child, ancestor, negative, masked)
    wanted = 0.0
    for i in range(4):
        own = math.exp(-by_hand(space, child[i].tolist(), ancestor[i].tolist()))
        rest = [by_hand(space, child[i].tolist(), negative[i, j].tolist()) for j in range(3) if not masked[i, j]]
        wanted -= math.log(own / (own + math.fsum(math.exp(-one) for one in rest)))
    assert float(found) == pytest.approx(wanted, rel=1e-12)
    first = by_hand(space, child[0].tolist(), ancestor[0].tolist())
    assert float(distance(space, child[0], ancestor[0])) == pytest.approx(first)


@pytest.mark.parametrize("space", ["euclidean", "poincare"])
def test_gradients_are_those_of_finite_differences(space: Space) -> None:
    child, ancestor, negative = vectors(2, 0), vectors(2, 1), vectors(4, 2).view(2, 2, 3)
    masked = torch.tensor([[False, True], [False, False]])
    inputs = [tensor.requires_grad_() for tensor in (child, ancestor, negative)]
    assert torch.autograd.gradcheck(lambda *three: batch_loss(space, *three, masked), inputs)


def test_a_step_in_the_ball_is_riemannian_and_stays_inside() -> None:
    rows, gradient = vectors(5, 3), vectors(5, 4)
    for row, slope, moved in zip(rows, gradient, descend("poincare", rows, gradient, 0.1), strict=True):
        room = 1 - float(row @ row)
        wanted = row - 0.1 * room**2 / 4 * slope
        torch.testing.assert_close(moved, wanted if wanted.norm() < 1 - 1e-5 else wanted / wanted.norm() * (1 - 1e-5))
    assert float(descend("poincare", rows, -1e6 * rows, 1.0).norm(dim=1).max()) < 1
    torch.testing.assert_close(descend("euclidean", rows, gradient, 0.1), rows - 0.1 * gradient)


@pytest.mark.parametrize("space", ["euclidean", "poincare"])
def test_mean_rank_and_map_by_loops(space: Space) -> None:
    closure = Closure.of(TOY, "r")
    table = vectors(len(closure.names), 5)
    table[3] = table[1]  # equal distances count against
    ranks, precisions = [], []
    for u in range(len(closure.names)):
        mine = {int(p) for c, p in zip(closure.child, closure.ancestor, strict=True) if c == u}
        far = {v: by_hand(space, table[u].tolist(), table[v].tolist()) for v in range(len(closure.names)) if v != u}
        for v in mine:
            ranks.append(1 + sum(far[w] <= far[v] for w in far if w not in mine))
        order = sorted(far, key=lambda w: (far[w], w in mine))
        hits = [place for place, w in enumerate(order, 1) if w in mine]
        if mine:
            precisions.append(sum(n / place for n, place in enumerate(hits, 1)) / len(mine))
    found = reconstruction(Embedding(closure, space, table, 0))
    assert found == {"mean_rank": pytest.approx(np.mean(ranks)), "map": pytest.approx(np.mean(precisions))}
    assert 1 < found["mean_rank"] < len(closure.names) and found["map"] < 1


def test_no_negative_is_an_ancestor_or_the_node_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    closure = Closure.of(TOY, "r")
    pairs = set(zip(closure.child.tolist(), closure.ancestor.tolist(), strict=True))
    embedding, seen = Embedding.start(closure, "poincare", 2, 0), 0

    def look(child, ancestor, negative, masked, rate) -> float:  # type: ignore[no-untyped-def]
        nonlocal seen
        for u, drawn, hidden in zip(child.tolist(), negative.tolist(), masked.tolist(), strict=True):
            assert hidden == [w == u or (u, w) in pairs for w in drawn]
        seen += len(child)
        return 0.0

    monkeypatch.setattr(embedding, "_update", look)
    embedding.epoch(0, 0.1, 4, 20)
    assert seen == len(pairs)


def words(out: Path, *more: str) -> list[str]:
    return ["reconstruct", f"output={out}", "subtree=feline.n.01", "epochs=24", "measure_every=12", "burn_in=2", *more]


def test_the_command_learns_resumes_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words(tmp_path / "through", "dim=3")) == 0
    found = json.loads((tmp_path / "through" / "metrics.json").read_text())
    assert found["map"] > 0.8 and found["mean_rank"] < 2, "from around 0.2 at the start"
    first = [word.replace("epochs=24", "epochs=12") for word in words(tmp_path / "twice", "dim=3")]
    assert run(*first) == 0 and run(*words(tmp_path / "twice", "dim=3")) == 2
    assert "already holds vectors; give resume=true" in capsys.readouterr().err
    assert run(*words(tmp_path / "twice", "dim=4", "resume=true")) == 2
    assert "was trained with dim=3" in capsys.readouterr().err
    (tmp_path / "twice").rename(tmp_path / "moved")
    assert run(*words(tmp_path / "moved", "dim=3", "resume=true")) == 0
    files = [tmp_path / name / "embedding.safetensors" for name in ("through", "moved")]
    assert load_file(files[0])["table"].equal(load_file(files[1])["table"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("subtree=felin.n.01", "did you mean feline.n.01?"),
        ("subtree=solarization.n.01", "has nothing below it"),
        ("rate=0", "rate=0.0 must be a finite number above 0"),
        ("rate=1e200", "is not finite; lower rate="),
        ("dim=0", "dim=0 must be at least 1"),
        ("space=flat", "space"),
    ],
)
def test_mistakes_are_one_line(word: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [one for one in words(tmp_path / "out") if not one.startswith(word.partition("=")[0])]
    extra = ["space=euclidean"] if word.startswith("rate") else []
    assert run(*given, word, *extra) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_damaged_vectors_and_other_directories_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    given = ["reconstruct", f"output={out}", "subtree=feline.n.01", "epochs=1", "dim=2"]
    assert run(*given) == 0
    path = out / "embedding.safetensors"
    whole, table = path.read_bytes(), load_file(path)["table"]
    place = len(whole) - 8  # within the last number
    odd = {"run": json.dumps({"history": []})}
    for damage in (
        lambda: path.write_bytes(whole[:-9]),
        lambda: path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]),
        lambda: save_file({"table": table}, path, odd),
        lambda: save_file({"table": table[:2]}, path),
    ):
        damage()
        capsys.readouterr()
        assert run(*given, "resume=true") == 2
        error = capsys.readouterr().err
        assert "embedding.safetensors is damaged, or" in error and error.endswith("give another output=\n")
        assert error.count("\n") == 1
    path.unlink()  # what is left, metrics.json say, may be another command's
    assert run(*given) == 2
    assert "holds something else than vectors of a taxonomy" in capsys.readouterr().err


def test_a_second_run_into_the_same_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with only_run(tmp_path / "out"):
        assert run("reconstruct", f"output={tmp_path / 'out'}", "subtree=feline.n.01", "epochs=1", "dim=2") == 2
    assert "another run is writing to" in capsys.readouterr().err
