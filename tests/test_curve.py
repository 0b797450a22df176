"""Functions by tables and their means over pixels: against quadrature, in numpy."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nanobragg_plugin import curve  # noqa: E402

STOL = (0.1, 0.2, 0.26, 0.4, 0.75)
Y = (3.0, 1.0, 7.0, 0.0, 2.0)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def by_quadrature(power: int, x: float, sides: tuple[float, float]) -> float:
    """At 1000 x 1000 places of a pixel."""
    places = (np.arange(1000) + 0.5) / 1000 - 0.5
    at = x + sides[0] * places[:, None] + sides[1] * places
    return float((np.interp(at, STOL, Y) ** power).mean())


@pytest.mark.parametrize("power, made", ((1, curve.linear), (2, curve.squared)))
@pytest.mark.parametrize("sides", ((0.3, 0.2), (0.05, 0.4), (0.1, 0.1)))
def test_means(power, made, sides) -> None:
    """Within the table, across its ends and beyond them. Measured worst 1.0e-6."""
    of = made(tensor(*STOL), tensor(*Y))
    at = tensor(0.0, 0.11, 0.22, 0.26, 0.5, 0.8, 1.5)
    for first, second in (sides, sides[::-1]):
        means = of.mean(at, torch.full_like(at, first), torch.full_like(at, second))
        for x, found in zip(at.tolist(), means.tolist()):
            assert found == pytest.approx(by_quadrature(power, x, sides), rel=3e-6)


def test_thin_pixels() -> None:
    """A side of no length is as a twentieth of the other; where both are short, the value."""
    of = curve.linear(tensor(*STOL), tensor(*Y))
    at, none = tensor(0.25), tensor(0.0)
    expected = by_quadrature(1, 0.25, (0.2, 0.0))
    assert float(of.mean(at, tensor(0.2), none)) == pytest.approx(expected, rel=2e-3)
    short = tensor(0.1 * curve.FINE * 0.06)
    assert torch.equal(of.mean(at, short, none), of.at(at))
    assert float(of.at(at)) == pytest.approx(6.0)


def test_never_negative() -> None:
    """Between peaks that are as high as they are narrow the differences of their integrals are
    rounding errors; no count is drawn of less than nothing."""
    stol = torch.linspace(0.1, 0.1001, 101, dtype=torch.float64)
    values = torch.zeros_like(stol)
    values[50] = 1e9
    at = torch.linspace(0.2, 0.9, 1001, dtype=torch.float64)
    width = torch.full_like(at, 3e-4)
    means = curve.linear(stol, values).mean(at, width, width)
    assert float(means.min()) >= 0 and float(means.max()) < 1e-6 * 1e9


def test_gradients() -> None:
    """Of means with respect to the values of the table, by differences."""
    at, sides = tensor(0.15, 0.27, 0.9), (tensor(0.1, 0.2, 0.1), tensor(0.0, 0.1, 0.1))

    def means(values: torch.Tensor) -> torch.Tensor:
        return curve.squared(tensor(*STOL), values).mean(at, *sides)

    assert torch.autograd.gradcheck(means, tensor(*Y).requires_grad_())
