"""F_latt: the Fourier transform of a domain of Na x Nb x Nc cells, by crystal shape.

All shapes take delta [..., 3], the distance from the nearest reciprocal lattice point in
units of a*, b*, c* (h - h0 ...), and are periodic: for a whole number of cells this equals the
formulae of nanoBragg.c, which use h itself, but for the sign of `square` (see `square_sign`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nanobragg_plugin.constants import GAUSS_WIDTH_SQR, ROUND_SCALE, TOPHAT_RADIUS_SQR


def grating(delta: Tensor, n: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """sin(pi N delta)/sin(pi delta), N on the peak, its gradient finite there
    (nanoBragg.c, `sincg`).

    N delta is reduced to a turn in the type of delta [...] before the rest is computed in `dtype`
    (default: that of delta): of a large crystal float32 would lose its fraction.
    """
    turns = n.to(delta) * delta
    phase = math.pi * (turns - 2 * torch.round(turns.detach() / 2)).to(dtype or delta.dtype)
    x, n = (math.pi * delta).to(phase), n.to(phase)
    # the series' next term is (x n)^6/5040; in float32 the ratio's gradient is noise further in
    peak = (x * n).abs() < (5e-2 if x.dtype == torch.float32 else 1e-3)
    safe = torch.where(peak, torch.full_like(x, 0.5), x)
    ratio = torch.sin(phase) / torch.sin(safe)
    n_sqr, x_sqr = n * n, x * x
    series = n * (1 - (n_sqr - 1) * x_sqr / 6 * (1 - (3 * n_sqr - 7) * x_sqr / 60))
    return torch.where(peak, series, ratio)


def square_sign(h0: Tensor, n: Tensor) -> Tensor:
    """The sign that sin(pi N h)/sin(pi h) has beside its periodic form: (-1)^((N-1) h0)."""
    return torch.cos(math.pi * torch.remainder((n - 1) * h0, 2)).round()


def sphere(x_sqr: Tensor) -> Tensor:
    """3 (sin x/x - cos x)/x^2 of x^2: the transform of a sphere (nanoBragg.c, `sinc3`)."""
    small = x_sqr < 0.09
    safe = torch.where(small, torch.ones_like(x_sqr), x_sqr)
    x = safe.sqrt()
    exact = 3 * (torch.sin(x) / x - torch.cos(x)) / safe
    # below x = 0.3 the difference cancels; the series' first neglected term is under 1e-16
    series = torch.ones_like(x_sqr)
    for ratio in (130, 88, 54, 28, 10):  # of successive coefficients: 2k (2k + 3)
        series = 1 - series * x_sqr / ratio
    return torch.where(small, series, exact)


def lattice_factor(
    delta: tuple[Tensor, Tensor, Tensor],
    ncells: Tensor,
    xtal_shape: str,
    fudge: Tensor,
    metric: Tensor,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """F_latt of a batch of samples: the product of its `factors`, whose arguments it has."""
    first, *others = factors(delta, ncells, xtal_shape, fudge, metric, dtype)
    for other in others:
        first = first * other
    return first


def factors(
    delta: tuple[Tensor, Tensor, Tensor],
    ncells: Tensor,
    xtal_shape: str,
    fudge: Tensor,
    metric: Tensor,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, ...]:
    """What F_latt is the product of, each [...]: of a square crystal the gratings along a, b and
    c, of any other shape F_latt itself.

    delta: three tensors [...]; ncells [3]; fudge []; metric [3, 3]: A^T A in 1/Angstrom^2,
    used by the `_star` shapes only; dtype: of the result (default: that of delta). Source:
    nanoBragg.c, the shapes' block in its inner loop; gauss and tophat as simtbx has them, round
    in hkl (DESIGN section 4).
    """
    if xtal_shape == "square":
        return tuple(grating(x, n, dtype) for x, n in zip(delta, ncells.unbind(-1)))
    dh, dk, dl = (x.to(dtype or x.dtype) for x in delta)
    na, nb, nc = ncells.to(dh).unbind(-1)
    fudge, metric = fudge.to(dh), metric.to(dh)
    n3 = na * nb * nc
    if xtal_shape.endswith("_star"):
        g = metric
        radius_sqr = (
            dh * (dh * g[0, 0] + 2 * (dk * g[0, 1] + dl * g[0, 2]))
            + dk * (dk * g[1, 1] + 2 * dl * g[1, 2])
            + dl * dl * g[2, 2]
        ) * (n3 * n3 * fudge)
    else:
        radius_sqr = ((dh * na) ** 2 + (dk * nb) ** 2 + (dl * nc) ** 2) * fudge
    if xtal_shape == "round":
        return (ROUND_SCALE * n3 * sphere(math.pi**2 * radius_sqr),)
    if xtal_shape.startswith("gauss"):
        return (n3 * torch.exp(-radius_sqr / GAUSS_WIDTH_SQR),)
    return (n3 * (radius_sqr < TOPHAT_RADIUS_SQR).to(radius_sqr.dtype),)
