"""Batched matching pursuit: supports and coefficients as in scikit-learn, and in a loop written from the definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import sparse_encode
from sklearn.linear_model import orthogonal_mp_gram

from stoical.docids.matching_pursuit import Floats, Ints, batched_omp

pytestmark = pytest.mark.filterwarnings("ignore:.*Orthogonal matching pursuit ended prematurely:RuntimeWarning")


def random_problem(seed: int, rows: int, dimensions: int, atoms: int, unit: bool = True) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(atoms, dimensions))
    if unit:
        dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    return rng.normal(size=(rows, dimensions)), dictionary


def dense(atoms: Ints, coefficients: Floats, num_atoms: int) -> Floats:
    codes = np.zeros((len(atoms), num_atoms))
    row, k = np.nonzero(atoms >= 0)
    codes[row, atoms[row, k]] = coefficients[row, k]
    return codes


def by_definition(row: Floats, dictionary: Floats, nonzeros: int) -> tuple[list[int], Floats]:
    """Take the atom most aligned with what is left, fit all taken ones by least squares, repeat."""
    taken: list[int] = []
    rest = row
    for _ in range(nonzeros):
        taken.append(int(np.abs(dictionary @ rest).argmax()))
        fit = np.linalg.lstsq(dictionary[taken].T, row, rcond=None)[0]
        rest = row - fit @ dictionary[taken]
    return taken, fit


@pytest.mark.parametrize(
    ("rows", "dimensions", "atoms", "nonzeros", "unit"),
    [
        (700, 16, 100, 3, True),
        (700, 64, 100, 3, False),
        (300, 40, 30, 7, True),
        (200, 8, 5, 5, True),
        (50, 6, 9, 1, True),
    ],
)
def test_supports_and_coefficients_are_those_of_scikit_learn(
    rows: int, dimensions: int, atoms: int, nonzeros: int, unit: bool
) -> None:
    x, dictionary = random_problem(rows + atoms, rows, dimensions, atoms, unit)
    wanted = sparse_encode(x, dictionary, algorithm="omp", n_nonzero_coefs=nonzeros)
    for block_rows in (rows, 128, 1):
        got = batched_omp(x, dictionary, nonzeros, block_rows)
        codes = dense(*got, atoms)
        np.testing.assert_array_equal(codes != 0, wanted != 0)
        np.testing.assert_allclose(codes, wanted, rtol=1e-9, atol=1e-11)


def test_atoms_come_in_the_order_of_the_definition() -> None:
    x, dictionary = random_problem(5, 60, 20, 40)
    atoms, coefficients = batched_omp(x, dictionary, 4)
    for row in range(len(x)):
        taken, fit = by_definition(x[row], dictionary, 4)
        assert atoms[row].tolist() == taken
        np.testing.assert_allclose(coefficients[row], fit, rtol=1e-9)


def test_equals_are_decided_as_scikit_learn_does() -> None:
    """On the unit vectors every step is exact: (1, 1, 3, 1) takes 2, which changes places with 0, so that 1 is next."""
    rng = np.random.default_rng(0)
    x = np.vstack([[[1.0, 1, 3, 1, 0, 0]], rng.integers(-2, 3, size=(500, 6))]).astype(float)
    for nonzeros in (1, 2, 3, 6):
        atoms, coefficients = batched_omp(x, np.eye(6), nonzeros)
        wanted = orthogonal_mp_gram(np.eye(6), x.T, n_nonzero_coefs=nonzeros).T
        np.testing.assert_array_equal(dense(atoms, coefficients, 6), wanted)
    assert batched_omp(x[:1], np.eye(6), 2)[0].tolist() == [[2, 1]]


def test_rows_that_end_early() -> None:
    """By hand, on the atoms e0, e1, e1 again and e2, of which the third always depends on the second."""
    dictionary = np.array([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]])
    x = np.array([[0.0, 0, 0], [0, 2, 0], [5, 2, 0], [3, 2, 1], [0, 0, 1e-9]])
    atoms, coefficients = batched_omp(x, dictionary, 3)
    assert atoms.tolist() == [[-1, -1, -1], [1, -1, -1], [0, 1, -1], [0, 1, 3], [-1, -1, -1]]
    assert coefficients.tolist() == [[0, 0, 0], [2, 0, 0], [5, 2, 0], [3, 2, 1], [0, 0, 0]]
    wanted = sparse_encode(x, dictionary, algorithm="omp", n_nonzero_coefs=3)
    np.testing.assert_array_equal(dense(atoms, coefficients, 4), wanted)


def test_early_ends_among_others_do_not_disturb_them() -> None:
    x, dictionary = random_problem(9, 400, 12, 20)
    dictionary[7] = dictionary[3]
    x[::5] = 0
    x[1::5] = 2 * dictionary[np.arange(80) % 20]
    x[2::5] = dictionary[3] - dictionary[np.arange(80) % 20] / 2
    wanted = sparse_encode(x, dictionary, algorithm="omp", n_nonzero_coefs=3)
    atoms, coefficients = batched_omp(x, dictionary, 3)
    np.testing.assert_allclose(dense(atoms, coefficients, 20), wanted, atol=1e-12)
    assert (atoms < 0).any(axis=1).sum() >= 160
    assert np.isfinite(coefficients).all()


def test_float32_and_memory_maps_are_read_by_blocks_as_float64(tmp_path: Path) -> None:
    x, dictionary = random_problem(2, 300, 24, 50)
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    got = batched_omp(mapped, dictionary.astype(np.float32), 3, block_rows=64)
    wanted = batched_omp(x.astype(np.float32).astype(np.float64), dictionary.astype(np.float32).astype(np.float64), 3)
    np.testing.assert_array_equal(got[0], wanted[0])
    np.testing.assert_allclose(got[1], wanted[1], rtol=1e-12)


def test_wrong_shapes_are_refused() -> None:
    x, dictionary = random_problem(0, 4, 6, 5)
    with pytest.raises(ValueError, match=r"rows \(4, 6\) and dictionary \(5, 5\)"):
        batched_omp(x, dictionary[:, :5], 3)
    for nonzeros in (0, 6):
        with pytest.raises(ValueError, match=f"nonzeros={nonzeros}: must be from 1 to the 5 atoms"):
            batched_omp(x, dictionary, nonzeros)


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [256, 768])
def test_large_problems_too(dimensions: int) -> None:
    x, dictionary = random_problem(dimensions, 20_000, dimensions, 100)
    wanted = sparse_encode(x, dictionary, algorithm="omp", n_nonzero_coefs=3)
    np.testing.assert_array_equal(dense(*batched_omp(x, dictionary, 3), 100) != 0, wanted != 0)
