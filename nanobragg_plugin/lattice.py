"""F_latt: the Fourier transform of a domain of Na x Nb x Nc cells, by crystal shape.

All shapes take delta [..., 3], the distance from the nearest reciprocal lattice point in
units of a*, b*, c* (h - h0 ...), and are periodic: for a whole number of cells this equals the
formulae of nanoBragg.c, which use h itself, but for the sign of `square` (see `square_sign`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nanobragg_plugin.constants import GAUSS_WIDTH_SQR, ROUND_SCALE, TOPHAT_RADIUS_SQR

#: Of sin(pi x)/(pi x) and of its derivative, in powers of x^2 (see `sine_series`).
SINE = (0.9999999957, -1.644933206, 0.8117148427, -0.1904417527, 0.0247186446)
SINE_SLOPE = (-1.644933722, 1.623440709, -0.5713697885, 0.09887680405)


def grating(delta: Tensor, n: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """sin(pi N delta)/sin(pi delta), N on the peak, its gradient finite there
    (nanoBragg.c, `sincg`): the quotient of `grating_parts`, with its sign.

    For a whole number of cells it has the period 1 but for a sign; delta [...] is within half of 0.
    """
    top, bottom = grating_parts(delta, n, dtype)
    turns = torch.round((n.to(delta) * delta).detach())
    return (1 - 2 * torch.remainder(turns, 2)).to(top) * top / bottom


def grating_parts(
    delta: Tensor, n: Tensor, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of `grating` but for the sign, neither of which vanishes with
    delta [...].

    N delta is reduced to half a turn in the type of delta before the rest is computed in `dtype`
    (default: that of delta): of a large crystal float32 would lose its fraction. Within the peak,
    where nothing is to be reduced, delta itself cancels: no 0/0 there, nor a gradient of noise.
    """
    turns = n.to(delta) * delta
    t = (turns - torch.round(turns.detach())).to(dtype or delta.dtype)
    delta, n = delta.to(t), n.to(t)
    peak = (n * delta).detach().abs() < 0.5
    top = torch.where(peak, n, t) * sine_over(t * t)
    return top, torch.where(peak, torch.ones_like(delta), delta) * sine_over(delta * delta)


def sine_over(x_sqr: Tensor) -> Tensor:
    """sin(pi x)/(pi x) of x^2, |x| <= 1/2. Compiled code has no faster sine than its series."""
    return polynomial(x_sqr, sine_series(x_sqr.dtype))


def polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Of x, coefficients of rising powers: two or more."""
    total = x * coefficients[-1] + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        total = total * x + coefficient
    return total


def sine_series(dtype: torch.dtype) -> Sequence[float]:
    """Coefficients of the powers of x^2 in sin(pi x)/(pi x), |x| <= 1/2, to the last bit of the
    type: Taylor's in float64 (the first left out is 1e-18), of the polynomial that agrees at
    Chebyshev's five points in float32 (largest error 4e-9)."""
    if dtype == torch.float64:
        return [(-1) ** k * math.pi ** (2 * k) / math.factorial(2 * k + 1) for k in range(11)]
    return SINE


def sine_slopes(dtype: torch.dtype) -> Sequence[float]:
    """The same of its derivative with respect to x^2 (in float32 at four points, error 3e-7)."""
    if dtype == torch.float64:
        return [k * coefficient for k, coefficient in enumerate(sine_series(dtype))][1:]
    return SINE_SLOPE


def gauss(radius_sqr: Tensor, n3: Tensor) -> Tensor:
    """N^3 exp(-x^2/0.63) of x^2 >= 0; 0 where its square would be a subnormal number, with which a
    CPU is a hundred times slower."""
    x = radius_sqr / GAUSS_WIDTH_SQR
    inside = x.detach() < (350.0 if x.dtype == torch.float64 else 43.0)
    within = torch.where(inside, x, torch.zeros_like(x))
    fast = x.dtype == torch.float32 and torch.compiler.is_compiling()
    return torch.where(inside, n3 * (_exp_series(-within) if fast else torch.exp(-within)), 0.0)


def _exp_series(x: Tensor) -> Tensor:
    """exp(x) in float32 of |x| < 80, relative error 1e-7 (1 + |x|), which rounding x has made
    already: of operations that a compiler vectorises, unlike its exp."""
    turns = x * (1 / math.log(2))
    whole = torch.round(turns.detach())
    rest = (turns - whole) * math.log(2)  # within 0.35; the first term left out is 7e-9
    total = rest * (1 / 5040) + 1 / 720
    for factorial in (120, 24, 6, 2, 1, 1):
        total = total * rest + 1 / factorial
    power = torch.bitwise_left_shift(whole.to(torch.int32) + 127, 23).view(torch.float32)
    return total * power


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


def squared(
    delta: tuple[Tensor, Tensor, Tensor],
    ncells: Tensor,
    xtal_shape: str,
    fudge: Tensor,
    metric: Tensor,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """F_latt^2 of a batch of samples [...]: the square of the product of its `factors`, whose
    arguments it has."""
    if xtal_shape == "square":  # a single division
        tops, bottoms = zip(*(grating_parts(x, n, dtype) for x, n in zip(delta, ncells)))
        f_latt = (tops[0] * tops[1] * tops[2]) / (bottoms[0] * bottoms[1] * bottoms[2])
    else:
        (f_latt,) = factors(delta, ncells, xtal_shape, fudge, metric, dtype)
    return f_latt * f_latt


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
        return tuple(grating(x, n, dtype) for x, n in zip(delta, ncells))
    dh, dk, dl = (x.to(dtype or x.dtype) for x in delta)
    na, nb, nc = ncells.to(dh)
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
        return (gauss(radius_sqr, n3),)
    return (n3 * (radius_sqr < TOPHAT_RADIUS_SQR).to(radius_sqr.dtype),)
