"""The unit cell: parameters to matrices, in torch, differentiable."""

from __future__ import annotations

import torch
from torch import Tensor


def orthogonalization_matrix(cell: Tensor) -> Tensor:
    """Cell [..., 6] (a b c in Angstrom, alpha beta gamma in degrees) -> [..., 3, 3], columns
    a, b, c: a along x, b in the xy plane (the PDB's and cctbx's convention)."""
    a, b, c = cell[..., 0], cell[..., 1], cell[..., 2]
    cos = torch.cos(torch.deg2rad(cell[..., 3:]))
    ca, cb, cg = cos.unbind(-1)
    sg = torch.sqrt(1 - cg * cg)
    cy = (ca - cb * cg) / sg
    cz = torch.sqrt(1 - cb * cb - cy * cy)
    o = torch.zeros_like(a)
    rows = [a, b * cg, c * cb, o, b * sg, c * cy, o, o, c * cz]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def b_matrix(cell: Tensor) -> Tensor:
    """Cell [..., 6] -> B [..., 3, 3], columns a*, b*, c* in 1/Angstrom: dxtbx's
    `crystal.get_B()`."""
    return torch.linalg.inv(orthogonalization_matrix(cell)).transpose(-1, -2)


def volume(A: Tensor) -> Tensor:
    """Volume of the unit cell, Angstrom^3, of a reciprocal basis [..., 3, 3]."""
    return 1 / torch.linalg.det(A).abs()


def edges(A: Tensor) -> Tensor:
    """Lengths of a, b, c, Angstrom, [..., 3], of a reciprocal basis [..., 3, 3]."""
    return torch.linalg.vector_norm(torch.linalg.inv(A), dim=-1)
