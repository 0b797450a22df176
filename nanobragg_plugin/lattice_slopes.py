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
    """A single division; and nothing is used oftener than need be, since a compiler that makes one
    loop of all this follows each use to its beginning."""
    gratings = [_Grating.of(x, n, dtype) for x, n in zip(delta, ncells)]
    tops, bottoms = [one.top for one in gratings], [one.bottom for one in gratings]
    over = 1 / (bottoms[0] * bottoms[1] * bottoms[2])
    f_latt = tops[0] * tops[1] * tops[2] * over
    twice = 2 * f_latt * over
    of_delta, of_n = [], []
    for axis, one in enumerate(gratings):
        j, k = (axis + 1) % 3, (axis + 2) % 3
        quotient = one.top * (bottoms[j] * bottoms[k]) * over
        others = tops[j] * tops[k]
        of_delta.append(twice * (one.top_slope - quotient * one.bottom_slope) * others)
        of_n.append(twice * one.top_n * others)
    return Slopes(f_latt.square(), tuple(of_delta), tuple(of_n), None)


@dataclass(frozen=True)
class _Grating:
    """`lattice.grating_parts` top and bottom, their derivatives with respect to delta, and that of
    top with respect to N.

    With S(x^2) = sin(pi x)/(pi x) and t = N delta less whole turns, top and bottom are t S(t^2) and
    delta S(delta^2), within the peak N S and S.
    """

    top: Tensor
    bottom: Tensor
    top_slope: Tensor
    bottom_slope: Tensor
    top_n: Tensor

    @classmethod
    def of(cls, delta: Tensor, n: Tensor, dtype: torch.dtype | None) -> _Grating:
        """Of delta [...] within half of 0."""
        turns = n.to(delta) * delta
        t = (turns - torch.round(turns)).to(dtype or delta.dtype)
        delta, n = delta.to(t), n.to(t)
        peak = (n * delta).abs() < 0.5
        one_or_delta = torch.where(peak, torch.ones_like(delta), delta)
        of_t, slope_t = _sine_over(t.square())
        of_delta, slope_delta = _sine_over(delta.square())
        cosine, along = of_t + 2 * t.square() * slope_t, 2 * delta * slope_delta
        return cls(
            torch.where(peak, n, t) * of_t,
            one_or_delta * of_delta,
            n * torch.where(peak, 2 * n * t * slope_t, cosine),
            torch.where(peak, along, of_delta + delta * along),
            one_or_delta * cosine,
        )


def _sine_over(y: Tensor) -> tuple[Tensor, Tensor]:
    """`lattice.sine_over` of y, and its derivative."""
    series, slopes = lattice.sine_series(y.dtype), lattice.sine_slopes(y.dtype)
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
