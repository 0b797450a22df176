"""The lattice factors against sums over cells, integrals and the formulae in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor

from nanobragg_plugin import cell, lattice

TRICLINIC = (27.1, 31.9, 34.3, 88.5, 108.6, 111.8)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("n", (1, 2, 7, 36, 47))
def test_the_grating_is_a_sum_over_cells(n):
    """sum over n cells of exp(2 pi i h n) with its phase taken to the middle cell: real."""
    h = np.concatenate([np.random.default_rng(n).uniform(-9, 9, 200), np.arange(-3, 4) + 1e-5])
    cells = np.arange(n) - (n - 1) / 2
    expected = np.exp(2j * math.pi * h[:, None] * cells).sum(1)
    assert np.abs(expected.imag).max() < 1e-10
    nearest = torch.ceil(torch.tensor(h) - 0.5)
    count = vector(n)[0]
    found = lattice.grating(torch.tensor(h) - nearest, count) * lattice.square_sign(nearest, count)
    np.testing.assert_allclose(found.numpy(), expected.real, rtol=0, atol=1e-11 * n)


@pytest.mark.parametrize("n", (1.0, 3.0, 300.0))
def test_the_grating_on_its_peak_and_through_its_series(n):
    delta = torch.logspace(-12, -3, 400, dtype=torch.float64).requires_grad_()
    found = lattice.grating(delta, vector(n)[0])
    # numpy's extended precision; measured 3.3e-16
    x = math.pi * np.longdouble(delta.detach().numpy())
    expected = np.sin(n * x) / np.sin(x)
    np.testing.assert_allclose(found.detach().numpy(), expected.astype(float), rtol=1e-14)
    top = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    value = lattice.grating(top, vector(n)[0])
    assert value.item() == n and torch.autograd.grad(value, top)[0].item() == 0


def test_the_sphere_is_a_volume_integral():
    """Mean of cos(x z) over a unit ball: 3/4 times the integral of (1 - z^2) cos(x z)."""
    for x in (0.0, 0.01, 0.2999, 0.3001, 1.0, 4.0, 20.0):
        expected, _ = integrate.quad(
            lambda z, x=x: 0.75 * (1 - z * z) * math.cos(x * z), -1, 1, epsabs=1e-14, limit=200
        )
        assert lattice.sphere(vector(x * x)).item() == pytest.approx(expected, abs=3e-14)


NCELLS, FUDGE = (5.0, 7.0, 9.0), 1.2


def lattice_factors(shape: str, delta: Tensor, fudge: float = FUDGE) -> Tensor:
    B = cell.b_matrix(vector(*TRICLINIC))
    return math.prod(
        lattice.factors(delta.unbind(-1), vector(*NCELLS), shape, vector(fudge)[0], B.T @ B)
    )


def integral_of_intensity(shape: str) -> float:
    """F_latt^2 over one reciprocal cell, in units of hkl, on a midpoint grid."""
    axes = [(torch.arange(m, dtype=torch.float64) + 0.5) / m - 0.5 for m in (120, 140, 160)]
    total = 0.0
    for first in axes[0].split(20):
        delta = torch.cartesian_prod(first, axes[1], axes[2])
        total += lattice_factors(shape, delta, 1.0).square().sum().item()
    return total / (120 * 140 * 160)


@pytest.mark.parametrize(
    "shape, integral, tolerance",
    [
        # Parseval: sum over cells of 1
        ("square", 5 * 7 * 9, 1e-12),
        # N^6 integral of exp(-2 |N delta|^2/0.63) = N^3 (pi 0.63/2)^(3/2)
        ("gauss", 315 * (math.pi * 0.63 / 2) ** 1.5, 1e-6),
        # N^3 times the volume of a ball of radius 0.63 (its edge on the grid: 1e-3)
        ("tophat", 315 * 4 / 3 * math.pi * 0.63**3, 2e-3),
    ],
)
def test_the_volume_under_a_peak(shape, integral, tolerance):
    assert integral_of_intensity(shape) == pytest.approx(integral, rel=tolerance)


def test_the_volume_under_a_round_crystals_peak():
    """By Parseval that of the square crystal of the same N: what ROUND_SCALE is for. Its tails
    are long, so it is integrated over shells of r = N delta; beyond R they hold 0.304/R."""
    radius = torch.linspace(0, 500, 500_001, dtype=torch.float64)
    delta = torch.zeros(len(radius), 3, dtype=torch.float64)
    delta[:, 0] = radius / NCELLS[0]
    relative = lattice_factors("round", delta, 1.0) / 315
    volume = torch.trapezoid(4 * math.pi * radius**2 * relative**2, radius).item()
    tail = 0.723601254558268**2 * 18 / math.pi**3 / 500
    assert volume + tail == pytest.approx(1.0, rel=1e-5)


def test_all_shapes_by_their_formulae():
    """DESIGN section 4 in numpy, near the peak (the `_star` shapes are sharp) and far."""
    draw = np.random.default_rng(1)
    delta = draw.uniform(-0.2, 0.2, (100, 3)) * np.logspace(-2, 0, 100)[:, None]
    n = np.array(NCELLS)
    hrad_sqr = FUDGE * ((n * delta) ** 2).sum(1)
    B = cell.b_matrix(vector(*TRICLINIC)).numpy()
    rad_star_sqr = FUDGE * ((delta @ B.T) ** 2).sum(1) * n.prod() ** 2
    x = math.pi * np.sqrt(hrad_sqr)
    expected = {
        "round": 0.723601254558268 * 315 * 3 * (np.sin(x) / x - np.cos(x)) / x**2,
        "gauss": 315 * np.exp(-hrad_sqr / 0.63),
        "gauss_star": 315 * np.exp(-rad_star_sqr / 0.63),
        "tophat": 315.0 * (hrad_sqr < 0.3969),
        "tophat_star": 315.0 * (rad_star_sqr < 0.3969),
        "square": (np.sin(math.pi * n * delta) / np.sin(math.pi * delta)).prod(1),
    }
    for shape, values in expected.items():
        found = lattice_factors(shape, torch.tensor(delta)).numpy()
        assert len(set(found)) > 1, shape
        np.testing.assert_allclose(found, values, rtol=1e-11, atol=1e-12, err_msg=shape)


@pytest.mark.parametrize("n", [30.0, 1000.0])
def test_the_gratings_gradient_in_mixed_precision(n):
    """delta in float64, the rest float32, near the peak and up to the first zero: d/d delta against
    float64, of the largest; measured 1.2e-5, and near the peak 3.2e-4 of itself."""
    near = torch.logspace(-7, 0, 3000, dtype=torch.float64) / n

    def slope(dtype):
        delta = near.clone().requires_grad_()
        lattice.grating(delta, vector(n)[0], dtype).sum().backward()
        return delta.grad

    exact = slope(torch.float64)
    assert (slope(torch.float32) - exact).abs().max() < 3e-5 * exact.abs().max()
    early = near < 0.03 / n
    relative = ((slope(torch.float32) - exact) / exact)[early].abs().max()
    assert relative < 1e-3
