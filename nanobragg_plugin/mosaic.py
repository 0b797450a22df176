"""Mosaic domains: rotations that are differentiable functions of the spread.

A distribution is drawn once into fixed deviates; the spread only scales them.
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


def gaussian_deviates(domains: int, seed: int = 0) -> Tensor:
    """Rotation vectors [domains, 3] of unit spread about each axis, float64.

    A low-discrepancy sequence (Roberts' R3, shifted at random by the seed) through the
    inverse normal distribution, then centred and, from four domains on, whitened: the mean
    orientation is the crystal's and sigma about each axis is the spread, exactly, however few
    the domains. One domain is the identity.
    """
    if domains == 1:
        return torch.zeros(1, 3, dtype=torch.float64)
    draw = Ran1(seed)
    for _ in range(8):  # small seeds start alike
        draw()
    shift = torch.tensor([draw() for _ in range(3)], dtype=torch.float64)
    root = 1.2207440846057596  # of x^4 = x + 1
    steps = torch.tensor([root**-1, root**-2, root**-3], dtype=torch.float64)
    counts = torch.arange(1, domains + 1, dtype=torch.float64)[:, None]
    deviates = torch.special.ndtri(torch.remainder(shift + counts * steps, 1).clamp(1e-9, 1 - 1e-9))
    deviates = deviates - deviates.mean(0)
    if domains < 4:
        return deviates / deviates.square().mean().sqrt()
    covariance = deviates.T @ deviates / domains
    return torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariance), deviates.T, upper=False
    ).T.contiguous()


def gaussian_umats(spread: Tensor, deviates: Tensor) -> Tensor:
    """[domains, 3, 3] of a spread of sigma [] or [3] radians about the axes x, y, z."""
    return from_vector(spread * deviates.to(spread))


def identity_umats(dtype: torch.dtype = torch.float64) -> Tensor:
    """[1, 3, 3]: a single perfect domain."""
    return torch.eye(3, dtype=dtype)[None]


def mosaic_umats(spread: Tensor, domains: int, distribution: str, seed: int) -> Tensor:
    """[domains, 3, 3] of `gaussian` or `cap`; spread [] radians."""
    if distribution == "gaussian":
        return gaussian_umats(spread, gaussian_deviates(domains, seed))
    if distribution == "cap":
        return cap_umats(spread, cap_deviates(domains, seed))
    raise ValueError(f"mosaic_distribution {distribution!r} is neither gaussian nor cap")
