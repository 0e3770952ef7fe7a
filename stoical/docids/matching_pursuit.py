"""Orthogonal matching pursuit of many rows at once, with the supports that scikit-learn's one-row loop finds.

Pati et al. 1993; the Cholesky form on the Gram matrix is Rubinstein et al. 2008, which scikit-learn's
`orthogonal_mp_gram` follows, and this file follows it step by step: what is picked, when a row ends early, and which of
equals goes first. All rows of a block take their k-th step together. Arithmetic is float64 whatever comes in: supports
then agree with scikit-learn's on float64 input, and do not depend on the block size.

Dimension letters: N rows, E embedding dimensions, C atoms, K non-zeros asked for, B rows of a block.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stoical.common.arrays import Floats, Ints

BLOCK_ROWS = 4096
EPS = float(np.finfo(np.float64).eps)  # scikit-learn's bound on squared inner products and on pivots


def batched_omp(
    rows: Floats, dictionary: Floats, nonzeros: int, block_rows: int = BLOCK_ROWS, device: str = "cpu"
) -> tuple[Ints, Floats]:
    """The atoms [N, K] int64 of every row in the order they were picked, and their coefficients [N, K] float64.

    `rows` [N, E] may be a memory map: it is read by blocks. `dictionary` is [C, E]. Where a row ends early (its rest is
    orthogonal to every atom, or the next atom depends on those it has), atoms are -1 and coefficients 0 from there on.
    Beside input and output the peak is about `8 * block_rows * (E + 5 C)` bytes: 42 MB at E = 768, C = 100.
    Raises `ValueError` where the shapes do not fit, or `nonzeros` is not between 1 and C.
    """
    if rows.ndim != 2 or dictionary.ndim != 2 or rows.shape[1] != dictionary.shape[1]:
        raise ValueError(f"rows {rows.shape} and dictionary {dictionary.shape} must be [N, E] and [C, E]")
    if not 1 <= nonzeros <= len(dictionary):
        raise ValueError(f"nonzeros={nonzeros}: must be from 1 to the {len(dictionary)} atoms of the dictionary")
    columns = torch.as_tensor(np.asarray(dictionary), dtype=torch.float64, device=device).T.contiguous()  # [E, C]
    gram = columns.T @ columns
    atoms = np.empty((len(rows), nonzeros), dtype=np.int64)
    coefficients = np.empty((len(rows), nonzeros))
    for start in range(0, len(rows), block_rows):
        block = np.array(rows[start : start + block_rows], dtype=np.float64)
        found = _pursue(torch.from_numpy(block).to(device) @ columns, gram, nonzeros)
        atoms[start : start + block_rows], coefficients[start : start + block_rows] = (x.cpu().numpy() for x in found)
    return atoms, coefficients


def _pursue(products: Tensor, gram: Tensor, nonzeros: int) -> tuple[Tensor, Tensor]:
    """Atoms and coefficients [B, K] of a block, from its inner products with the atoms [B, C] and their Gram matrix.

    `order` [B, C] is scikit-learn's order of the atoms, where the k-th picked one changes places with the k-th: it
    decides between equals. Rows that ended continue with numbers that nothing reads.
    """
    size, num_atoms = products.shape
    row = torch.arange(size, device=products.device)
    order = torch.arange(num_atoms, device=products.device).repeat(size, 1)
    atoms = torch.full((size, nonzeros), -1, device=products.device)
    coefficients = products.new_zeros(size, nonzeros)
    factor = torch.eye(nonzeros, dtype=products.dtype, device=products.device).repeat(size, 1, 1)  # lower Cholesky
    running = torch.ones(size, dtype=torch.bool, device=products.device)
    residual = products
    for k in range(nonzeros):
        place = residual.gather(1, order).abs().argmax(dim=1)
        atom = order[row, place]
        picked = atoms[:, :k].clamp(min=0)
        side = torch.linalg.solve_triangular(factor[:, :k, :k], gram[atom[:, None], picked][..., None], upper=False)
        pivot = gram[atom, atom] - side.square().sum(dim=(1, 2))
        running &= (place >= k) & (residual[row, atom].square() >= EPS)
        if k:
            running &= pivot > EPS
        factor[:, k, :k] = side[..., 0]
        factor[:, k, k] = torch.where(running, pivot, 1.0).sqrt()
        atoms[:, k] = torch.where(running, atom, -1)
        order[row, place], order[:, k] = order[:, k].clone(), atom
        picked = atoms[:, : k + 1].clamp(min=0)
        solved = torch.cholesky_solve(products.gather(1, picked)[..., None], factor[:, : k + 1, : k + 1])[..., 0]
        coefficients[:, : k + 1] = torch.where(running[:, None], solved, coefficients[:, : k + 1])
        if k + 1 < nonzeros:
            residual = products - torch.zeros_like(products).scatter_add_(1, picked, solved) @ gram
    return atoms, coefficients
