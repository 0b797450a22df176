"""Backgrounds that follow the crystal's photons, each in its shoebox."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from refine_models import FLOAT
from scipy.optimize import minimize
from test_refine_fit import moved, target_of, value

from nanobragg_plugin.refine import settled
from nanobragg_plugin.refine.minimise import minimise
from nanobragg_plugin.refine.target import Target

#: By how much a loss may be above the least: measured 0.054 (a plane of 0.3 photons), else 1e-5.
LESS = 0.1


def weak(level: float) -> Target:
    """A target beside whose spots there are so few photons a pixel."""
    target = target_of()
    (picture,) = target.data.pictures
    (found,) = target.expected(target.start())
    made = torch.Generator().manual_seed(2)
    counts = torch.poisson(found.bragg + level, generator=made)
    picture = replace(picture, counts=counts.to(picture.counts))
    return replace(target, data=replace(target.data, pictures=(picture,)))


@pytest.mark.parametrize("background", ["constant", "plane"])
@pytest.mark.parametrize("level", [0.3, 20.0])
def test_as_scipy_finds_them(level: float, background: str) -> None:
    """The loss of boxes against the least that scipy finds by Nelder's and Mead's way, from there
    and from the level. (Of a plane of 0.3 photons it may be stopped by a corner near 0.)"""
    target = replace(weak(level), background=background)
    state = target.start()
    (found,), (picture,) = target.expected(state), target.data.pictures
    background, loss = settled.settled(target, state.background, [found.bragg])
    sums = settled._sums(target, background, [found.bragg])[0]
    assert loss == pytest.approx(float(sums.sum()), rel=1e-12)
    for box in range(0, target.data.boxes, 3):
        mine = picture.box == box
        of_box = picture.counts[mine], found.bragg[mine], target.design(picture)[mine]
        flat = np.zeros(target.terms)
        flat[0] = level
        best = min(best_of(target, *of_box, one) for one in (background[box].numpy(), flat))
        assert float(sums[box]) - best < LESS, (box, float(sums[box]), best)


def best_of(
    target: Target, counts: torch.Tensor, bragg: torch.Tensor, design: torch.Tensor, start: object
) -> float:
    """The least loss of a box that scipy finds."""

    def of(terms: np.ndarray) -> float:
        expected = bragg + (design * torch.from_numpy(terms)).sum(1)
        return float(target.noise.terms(counts, expected).loss.sum())

    options = {"xatol": 1e-4, "fatol": 1e-5}
    return minimize(of, start, method="Nelder-Mead", options=options).fun


def test_weak_backgrounds_end_in_few_steps() -> None:
    """A fiftieth of a photon a pixel: measured 9 steps; without it the search did not end in 50,
    its steps of the backgrounds overshot."""
    target = weak(0.02)
    start = moved(target, rotation_x=0.05, Ncells_a=11.0, scale=1.3)
    ends = [minimise(target, start, settles=settles) for settles in (True, False)]
    assert ends[0].converged and len(ends[0].losses) < 15
    assert ends[0].normal.loss <= ends[1].normal.loss + 0.1
    assert value(target, ends[0].state, "Ncells_a") == pytest.approx(9.0, rel=0.02)


def test_no_round_changes_nothing() -> None:
    target = weak(1.0)
    state = target.start()
    same, loss = target.settled(state, 0)
    assert torch.equal(same.background, state.background)
    assert loss == pytest.approx(target.normal(state).loss, rel=1e-7)
    none = replace(target, background="none")
    same, loss = none.settled(none.start())
    assert same.background.shape == (target.data.boxes, 0) and same.background.dtype == FLOAT
    assert loss == pytest.approx(none.normal(none.start()).loss, rel=1e-7)
