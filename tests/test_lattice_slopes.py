"""F_latt^2's written-out slopes against torch's own derivatives of `lattice.squared`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nanobragg_plugin import lattice, lattice_slopes
from nanobragg_plugin.models import XTAL_SHAPES

#: Cells along a, b, c: one, few, many, no whole number.
NCELLS = ((1.0, 1.0, 1.0), (1.0, 30.0, 7.0), (4.4, 2.7, 11.3), (30.0, 47.5, 36.0), (1000, 300, 555))
FUDGE = 1.3


def places(ncells: Tensor) -> dict[str, Tensor]:
    """delta [n, 3], by where they are."""
    draw = torch.Generator().manual_seed(3)

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=draw, dtype=torch.float64) - 1

    sign, away = uniform(300, 3).sign(), 1e-12 * uniform(300, 3).abs()
    edge = 0.5 * sign / ncells
    one_in_three = torch.arange(300)[:, None] % 3 == torch.arange(3)
    near = uniform(300, 3) * torch.logspace(-9, 0.3, 300, dtype=torch.float64)[:, None] / ncells
    return {
        "anywhere": uniform(3000, 3) / 2,
        "near": near.clamp(-0.5, 0.5),
        "peak": torch.zeros(2, 3, dtype=torch.float64),
        "a plane": torch.where(one_in_three, 0.0, near).clamp(-0.5, 0.5),
        "inside": edge * (1 - away),
        "outside": (edge * (1 + away)).clamp(-0.5, 0.5),
        "half": torch.where(one_in_three, 0.5 * sign, near).clamp(-0.5, 0.5),
    }


def found(shape: str, delta: Tensor, ncells: Tensor, dtype: torch.dtype | None) -> list[Tensor]:
    """Value, slopes with respect to delta, N and, if there is one, fudge: each [n]."""
    fudge = torch.tensor(FUDGE, dtype=dtype or torch.float64)
    slopes = lattice_slopes.squared(delta.unbind(1), ncells, shape, fudge, dtype)
    assert (slopes.fudge is None) == (shape == "square")
    every = [slopes.value, *slopes.delta, *slopes.ncells, slopes.fudge]
    assert all(one.dtype == (dtype or torch.float64) for one in every if one is not None)
    return [one.double() for one in every if one is not None]


def expected(shape: str, delta: Tensor, ncells: Tensor) -> list[Tensor]:
    """The same by torch, in float64."""
    delta = delta.clone().requires_grad_()
    each = ncells.expand(len(delta), 3).clone().requires_grad_()  # N of every sample alone
    fudge = torch.full((len(delta),), FUDGE, dtype=torch.float64, requires_grad=True)
    metric = torch.eye(3, dtype=torch.float64)
    value = lattice.squared(delta.unbind(1), each.T, shape, fudge, metric)
    grads = torch.autograd.grad(
        value.sum(), [delta, each, fudge], allow_unused=True, materialize_grads=True
    )
    last = [] if shape == "square" else [grads[2]]
    return [value.detach(), *grads[0].unbind(1), *grads[1].unbind(1), *last]


def worst(shape: str, ncells: Tensor, dtype: torch.dtype | None = None) -> dict[str, float]:
    """By place, the largest difference as a part of the largest value, or of the largest slope of
    its kind there, in units N: slopes with respect to N delta, and to log N."""
    answer = {}
    for name, delta in places(ncells).items():
        exact, ours = expected(shape, delta, ncells), found(shape, delta, ncells, dtype)
        assert len(exact) == len(ours) == (7 if shape == "square" else 8)
        units = [1.0, *(1 / ncells).tolist(), *ncells.tolist(), FUDGE][: len(ours)]
        parts = []
        for rows in (slice(0, 1), slice(1, 4), slice(4, 7), slice(7, 8)):
            some = [torch.stack(x[rows]) for x in (ours, exact) if x[rows]]
            if some:
                scale = torch.tensor(units[rows], dtype=torch.float64)[:, None]
                difference, size = (some[0] - some[1]) * scale, (some[1] * scale).abs().max()
                # some are nothing, as on the peak, and of N = 1 everywhere
                size = torch.maximum(size, exact[0].max()).clamp(min=1e-300)
                assert torch.isfinite(some[0]).all()
                parts.append(float(difference.abs().max() / size))
        answer[name] = max(parts)
    return answer


@pytest.mark.parametrize("ncells", NCELLS)
@pytest.mark.parametrize("shape", lattice_slopes.SHAPES)
def test_slopes(shape, ncells):
    """In float64. Measured worst 1.3e-13 (round, where the sine and the cosine cancel), of the
    other shapes 1.5e-15; and 2e-13 at the half, where N delta is 500 and so is its rounding."""
    parts = worst(shape, torch.tensor(ncells, dtype=torch.float64))
    assert parts.pop("half") <= 1e-12
    assert max(parts.values()) <= (1e-12 if shape == "round" else 1e-14), parts


@pytest.mark.parametrize("ncells", NCELLS)
@pytest.mark.parametrize("shape", lattice_slopes.SHAPES)
def test_slopes_in_mixed_precision(shape, ncells):
    """delta in float64, the rest in float32. Measured worst 1.4e-5 (round), of the other shapes
    8.3e-7; and 4e-4 at the half, where N delta is 500 and so is its rounding."""
    parts = worst(shape, torch.tensor(ncells, dtype=torch.float64), torch.float32)
    assert parts.pop("half") <= 1e-3
    assert max(parts.values()) <= (3e-5 if shape == "round" else 2e-6), parts


@pytest.mark.parametrize("shape", ("gauss_star", "tophat_star", "cube"))
def test_other_shapes_are_refused(shape):
    """The `_star` ones are there, but not here."""
    assert shape == "cube" or shape in set(XTAL_SHAPES) - set(lattice_slopes.SHAPES)
    ones = torch.ones(3, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"the slopes of {shape} are not written out"):
        lattice_slopes.squared(ones.split(1), ones, shape, ones[0])
