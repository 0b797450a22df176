"""Rotations as matrices, differentiable everywhere, and the list of phi of an image."""

from __future__ import annotations

import torch
from torch import Tensor

from nanobragg_plugin.constants import RTD


def cross_matrix(v: Tensor) -> Tensor:
    """[..., 3] -> [..., 3, 3], the matrix K with K w = v x w."""
    x, y, z = v.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))


def about_axis(axis: Tensor, angle: Tensor) -> Tensor:
    """Right-handed rotation by `angle` [...] radians about the unit vector `axis` [..., 3]:
    [..., 3, 3] (Rodrigues)."""
    k = cross_matrix(axis)
    sin = torch.sin(angle)[..., None, None]
    versine = (2 * torch.sin(angle / 2) ** 2)[..., None, None]
    eye = torch.eye(3, dtype=k.dtype, device=k.device)
    return eye + sin * k + versine * (k @ k)


def from_vector(v: Tensor) -> Tensor:
    """Rotation vector [..., 3] (axis times angle, radians) -> [..., 3, 3]; differentiable at 0."""
    angle_sqr = (v * v).sum(-1)
    small = angle_sqr < 1e-6
    safe = torch.where(small, torch.ones_like(angle_sqr), angle_sqr)
    angle = safe.sqrt()
    # Taylor series below 1e-3 rad: their first neglected terms are under 1e-22
    sinc = torch.where(
        small, 1 - angle_sqr / 6 * (1 - angle_sqr / 20 * (1 - angle_sqr / 42)), angle.sin() / angle
    )
    versine = torch.where(
        small,
        (1 - angle_sqr / 12 * (1 - angle_sqr / 30 * (1 - angle_sqr / 56))) / 2,
        2 * (angle / 2).sin() ** 2 / safe,
    )
    k = cross_matrix(v)
    eye = torch.eye(3, dtype=v.dtype, device=v.device)
    return eye + sinc[..., None, None] * k + versine[..., None, None] * (k @ k)


def phi_steps(
    start_deg: float,
    width_deg: float,
    phisteps: int,
    sampling: str = "midpoint",
    phistep_deg: float | None = None,
) -> tuple[float, ...]:
    """phi of every step of an image, radians, float64.

    `start` samples at phi0 + k phistep in the order of operations of nanoBragg.c (that
    decides whether a phi is exactly 0), `midpoint` half a step later. phistep is
    width/phisteps unless given.
    """
    if sampling not in ("midpoint", "start"):
        raise ValueError(f"phi_sampling {sampling!r} is neither midpoint nor start")
    if phisteps < 1:
        raise ValueError(f"phisteps must be at least 1, not {phisteps}")
    phi0 = start_deg / RTD
    phistep = width_deg / RTD / phisteps if phistep_deg is None else phistep_deg / RTD
    offset = 0.5 if sampling == "midpoint" else 0.0
    return tuple(phi0 + phistep * (k + offset) for k in range(phisteps))
