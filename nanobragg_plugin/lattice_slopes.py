"""F_latt^2 with its derivatives, written out: what `lattice.squared` has, and its slopes.

Written out because compiled code of torch's own derivatives is not one loop: it takes minutes to
compile, and arrays of all steps. The `_star` shapes, which are for comparison with nanoBragg.c
only, are left to torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nanobragg_plugin import lattice
from nanobragg_plugin.constants import GAUSS_WIDTH_SQR, ROUND_SCALE, TOPHAT_RADIUS_SQR

#: The shapes whose slopes are written here.
SHAPES = ("square", "round", "gauss", "tophat")


@dataclass(frozen=True)
class Slopes:
    """Of samples [...]: value F_latt^2; delta: its derivatives with respect to h, k and l; ncells:
    to Na, Nb and Nc; fudge: to fudge, None of a square crystal, which has none."""

    value: Tensor
    delta: tuple[Tensor, ...]
    ncells: tuple[Tensor, ...]
    fudge: Tensor | None


def squared(
    delta: tuple[Tensor, Tensor, Tensor],
    ncells: Tensor,
    xtal_shape: str,
    fudge: Tensor,
    dtype: torch.dtype | None = None,
) -> Slopes:
    """F_latt^2 and its slopes, of a shape among SHAPES; arguments as those of `lattice.squared`."""
    if xtal_shape == "square":
        return _square(delta, ncells, dtype)
    deltas = [x.to(dtype or x.dtype) for x in delta]
    cells = ncells.to(deltas[0])
    of_cells = [x * n for x, n in zip(deltas, cells)]
    radius_sqr = of_cells[0] ** 2 + of_cells[1] ** 2 + of_cells[2] ** 2
    n3 = cells[0] * cells[1] * cells[2]
    # value: F_latt^2; slope: its derivative with respect to x, the argument of `_radial`
    x = radius_sqr * fudge.to(radius_sqr)
    value, slope = _radial(x, n3, xtal_shape)
    of_x = slope * (2 * fudge.to(x))
    return Slopes(
        value,
        tuple(of_x * (n * y) for n, y in zip(cells, of_cells)),
        tuple(2 * value / n + of_x * (d * y) for n, d, y in zip(cells, deltas, of_cells)),
        slope * radius_sqr,
    )


def _square(delta: tuple[Tensor, ...], ncells: Tensor, dtype: torch.dtype | None) -> Slopes:
    parts = [_grating(x, n, dtype) for x, n in zip(delta, ncells)]
    (a, da, na), (b, db, nb), (c, dc, nc) = parts
    ab, ac, bc = a * b, a * c, b * c
    abc = ab * c
    twice = 2 * abc
    return Slopes(
        abc * abc,
        (twice * (da * bc), twice * (db * ac), twice * (dc * ab)),
        (twice * (na * bc), twice * (nb * ac), twice * (nc * ab)),
        None,
    )


def _grating(delta: Tensor, n: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor]:
    """`lattice.grating` but for its sign, and its derivatives with respect to delta and n.

    The quotient of the same top and bottom as `lattice.grating_parts`; with S(x^2) = sin(pi x)/(pi
    x) and t = n delta less whole turns, they are t S(t^2) and delta S(delta^2), within the peak
    n S and S.
    """
    turns = n.to(delta) * delta
    t = (turns - torch.round(turns)).to(dtype or delta.dtype)
    delta, n = delta.to(t), n.to(t)
    peak = (n * delta).abs() < 0.5
    of_t, slope_t = _sine_over(t * t)
    of_delta, slope_delta = _sine_over(delta * delta)
    cosine = of_t + 2 * t * t * slope_t  # of pi t
    top = torch.where(peak, n, t) * of_t
    bottom = torch.where(peak, torch.ones_like(delta), delta) * of_delta
    top_slope = n * torch.where(peak, 2 * n * t * slope_t, cosine)
    along = 2 * delta * slope_delta
    bottom_slope = torch.where(peak, along, of_delta + delta * along)
    over = 1 / bottom
    value = top * over
    top_n = torch.where(peak, torch.ones_like(delta), delta) * cosine
    return value, (top_slope - value * bottom_slope) * over, top_n * over


def _sine_over(y: Tensor) -> tuple[Tensor, Tensor]:
    """`lattice.sine_over` of y, and its derivative."""
    series = lattice.sine_series(y.dtype)
    slopes = [k * coefficient for k, coefficient in enumerate(series)][1:]
    return lattice.polynomial(y, series), lattice.polynomial(y, slopes)


def _radial(x: Tensor, n3: Tensor, xtal_shape: str) -> tuple[Tensor, Tensor]:
    """F_latt^2 of x = fudge sum (N delta)^2, and its derivative."""
    if xtal_shape == "gauss":
        f_latt = lattice.gauss(x, n3)
        value = f_latt * f_latt
        return value, value * (-2 / GAUSS_WIDTH_SQR)
    if xtal_shape == "tophat":
        value = n3 * n3 * (x < TOPHAT_RADIUS_SQR).to(x.dtype)
        return value, torch.zeros_like(value)
    if xtal_shape != "round":
        raise ValueError(f"the slopes of {xtal_shape} are not written out")
    form, slope = _sphere(math.pi**2 * x)
    scale = (ROUND_SCALE * n3) ** 2
    return scale * form * form, scale * (2 * math.pi**2) * form * slope


def _sphere(y: Tensor) -> tuple[Tensor, Tensor]:
    """`lattice.sphere` f of y = x^2, and its derivative -3/2 (f - sin x/x)/y, of which both terms
    are spherical Bessel functions; below 1/4, where they cancel, of the series."""
    small = y < 0.25
    safe = torch.where(small, torch.ones_like(y), y)
    x = safe.sqrt()
    sine_over = torch.sin(x) / x
    exact = 3 * (sine_over - torch.cos(x)) / safe
    exact_slope = -1.5 * (exact - sine_over) / safe
    series, slope = torch.ones_like(y), torch.zeros_like(y)
    for ratio in (238, 180, 130, 88, 54, 28, 10):  # of successive coefficients: 2k (2k + 3)
        slope = -(series + slope * y) / ratio
        series = 1 - series * y / ratio
    return torch.where(small, series, exact), torch.where(small, slope, exact_slope)
