"""Mosaic domains: their orientations and cells, differentiable functions of the spreads.

A distribution is drawn once into fixed deviates; the spreads only scale them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nanobragg_plugin.ran1 import Ran1, float32
from nanobragg_plugin.rotation import about_axis, from_vector

#: nanoBragg.c's default `-mosaic_seed`.
CLASSIC_SEED = -12345678


def cap_deviates(domains: int, seed: int = CLASSIC_SEED) -> tuple[Tensor, Tensor]:
    """Axes [domains, 3] and relative angles [domains] of nanoBragg.c's cap, float64.

    `mosaic_rotation_umat` of nanoBragg.c: three deviates a domain, in single precision; a
    random axis; an angle of spread (1 - r^2)^(1/3), so the spread is the largest angle;
    domain 0 is the identity, though its deviates are drawn.
    """
    draw = Ran1(seed)
    axes, angles = [], []
    for domain in range(domains):
        r1, r2, r3 = (2.0 * draw() - 1.0 for _ in range(3))
        around = math.sqrt(1.0 - r2 * r2)
        axes.append([around * math.sin(math.pi * r1), around * math.cos(math.pi * r1), r2])
        share = float32(float32(1.0 - r3 * r3) ** float32(1.0 / 3.0))
        angles.append(share if domain else 0.0)
    return torch.tensor(axes, dtype=torch.float64), torch.tensor(angles, dtype=torch.float64)


def cap_umats(spread: Tensor, deviates: tuple[Tensor, Tensor]) -> Tensor:
    """[domains, 3, 3] of a cap of `spread` [] radians (its largest angle)."""
    axes, angles = (d.to(spread) for d in deviates)
    angle = spread * angles
    # nanoBragg.c multiplies in single precision: its values, our gradient
    single = (spread.detach().float() * angles.float()).to(angle.dtype)
    return about_axis(axes, angle + (single - angle).detach())


def gaussian_deviates(domains: int, seed: int = 0, dimensions: int = 3) -> Tensor:
    """[domains, dimensions] of unit spread, float64: rotation vectors, about each axis, of three.

    A low-discrepancy sequence (Roberts' R_d, shifted at random by the seed) through the
    inverse normal distribution, then centred and, where there are more domains than dimensions,
    whitened: the mean is the crystal's and sigma along each dimension is 1, exactly, however few
    the domains. One domain is the mean.
    """
    if domains == 1:
        return torch.zeros(1, dimensions, dtype=torch.float64)
    draw = Ran1(seed)
    for _ in range(8):  # small seeds start alike
        draw()
    shift = torch.tensor([draw() for _ in range(dimensions)], dtype=torch.float64)
    root = _root(dimensions)
    steps = torch.tensor([root ** -(k + 1) for k in range(dimensions)], dtype=torch.float64)
    counts = torch.arange(1, domains + 1, dtype=torch.float64)[:, None]
    deviates = torch.special.ndtri(torch.remainder(shift + counts * steps, 1).clamp(1e-9, 1 - 1e-9))
    deviates = deviates - deviates.mean(0)
    if domains <= dimensions:
        return deviates / deviates.square().mean().sqrt()
    covariance = deviates.T @ deviates / domains
    return torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariance), deviates.T, upper=False
    ).T.contiguous()


def _root(dimensions: int) -> float:
    """Of x^(dimensions + 1) = x + 1."""
    if dimensions == 3:
        return 1.2207440846057596
    root = 1.5
    for _ in range(80):
        root = (1 + root) ** (1 / (dimensions + 1))
    return root


def gaussian_umats(spread: Tensor, deviates: Tensor, frame: Tensor | None = None) -> Tensor:
    """[domains, 3, 3] of a spread of sigma [] or [3] radians about axes at right angles, columns of
    frame [3, 3], or x, y, z: rotation vectors are the sum of sigma_i deviate_i axis_i."""
    vectors = spread * deviates.to(spread)
    return from_vector(vectors if frame is None else vectors @ frame.to(vectors).T)


def crystal_frame(A: Tensor) -> Tensor:
    """[3, 3], axes at right angles in the columns, of a crystal of A [3, 3]: a; the direction in
    the plane of a and b that is at right angles to a (b, in most lattices); c*. It is U of A = U B
    with B by cctbx's and the PDB's convention, as DIALS has it."""
    real = torch.linalg.inv(A)
    first = real[0] / torch.linalg.vector_norm(real[0])
    last = A[:, 2] / torch.linalg.vector_norm(A[:, 2])
    return torch.stack([first, torch.linalg.cross(last, first), last], -1)


def with_cells(umats: Tensor, spread: Tensor, deviates: Tensor, A: Tensor) -> Tensor:
    """umats [domains or 1, 3, 3] of domains whose cells differ too, [domains, 3, 3]: no rotations
    any more, but still what A is multiplied by.

    Edges are a exp(spread deviate), spread [] or [3], deviates [domains, 3] of a, b, c; the angles
    are those of A [3, 3].
    """
    factors = torch.exp(-spread * deviates.to(spread))  # of a*, b*, c*
    a_matrix = A.to(factors)
    return umats.to(factors) @ (a_matrix * factors[:, None]) @ torch.linalg.inv(a_matrix)


def identity_umats(dtype: torch.dtype = torch.float64) -> Tensor:
    """[1, 3, 3]: a single perfect domain."""
    return torch.eye(3, dtype=dtype)[None]


def mosaic_umats(
    spread: Tensor, domains: int, distribution: str, seed: int, frame: Tensor | None = None
) -> Tensor:
    """[domains, 3, 3] of `gaussian` or `cap`; spread [] radians, of gaussian also [3], about the
    columns of frame [3, 3] (`gaussian_umats`)."""
    if distribution == "gaussian":
        return gaussian_umats(spread, gaussian_deviates(domains, seed), frame)
    if distribution == "cap":
        return cap_umats(spread, cap_deviates(domains, seed))
    raise ValueError(f"mosaic_distribution {distribution!r} is neither gaussian nor cap")
