"""Blurred models, for starts that are far off: smaller domains and larger spreads, whose spots
reach pixels that sharp ones miss, and slopes lead from there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from nanobragg_plugin.refine import sampled
from nanobragg_plugin.refine.build import Built
from nanobragg_plugin.refine.joint import Joint
from nanobragg_plugin.refine.target import State, Target, scaled

#: How much, of what may be chosen; each is followed by its half, down to 2.
BLURS = (1.0, 2.0, 4.0, 8.0)
#: The likeness of start and counts from which on nothing is blurred, and what part of the best
#: one's is almost as good. Measured: 0.65 to 0.77 of starts 0.2 degrees off and less, 0.54 to 0.56
#: at 0.4, 0.25 to 0.33 at 0.8 (domains of 16 cells of 50 A, spread 0.08 degrees).
NEAR, ALMOST = 0.6, 0.8


def blurred(built: Built, state: State, blur: float) -> State:
    """With smaller domains and larger spreads (their logarithms are inner parameters)."""
    if blur == 1:
        return state
    state = _changed(built, state, "domains", lambda inner: (inner - math.log(blur)).clamp(min=0.0))
    return _changed(built, state, "mosaic", lambda inner: inner + math.log(blur))


def _changed(built: Built, state: State, kind: str, inner: Callable[[Tensor], Tensor]) -> State:
    names = built.model.parameters.names
    numbers = [names.index(name) for name in built.names.get(kind, ())]
    whole = state.inner.clone()
    whole[numbers] = inner(whole[numbers])
    return replace(state, inner=whole)


def restored(built: Built, state: State, before: State, blur: float) -> State:
    """With the domains and spreads of before."""
    if blur == 1:
        return state
    names, inner = built.model.parameters.names, state.inner.clone()
    numbers = [names.index(n) for kind in ("domains", "mosaic") for n in built.names[kind]]
    inner[numbers] = before.inner[numbers]
    return replace(state, inner=inner)


@torch.no_grad()
def chosen(target: Joint, built: Built, state: State) -> float:
    """1 where the start's photons are where the counts are; else of BLURS the widest that fits
    almost as well as the best."""
    coarse = tuple(map(sampled.coarse, target.targets))
    plain = replace(target, targets=coarse, free=(), image_scales=False)
    alike: dict[float, float] = {}
    for blur in BLURS:
        alike[blur] = likeness(plain, blurred(built, state, blur))
        if alike[1.0] > NEAR:
            return 1.0
    best = max(alike.values())
    return max(blur for blur, value in alike.items() if value >= ALMOST * best)


def likeness(target: Joint, state: State) -> float:
    """The correlation of the roots of counts above the background with those of the crystals'
    photons, which does not depend on the scale: the mean of all experiments."""
    total = 0.0
    for own, its_state in zip(target.own, target.states(state)):
        # picture by picture: of all pixels together these would take more than what is kept
        sums = torch.zeros(3, 3, dtype=torch.float64)
        for picture, found in zip(own.data.pictures, own.expected(its_state)):
            counts = picture.counts - found.background
            both = torch.stack([counts, found.bragg]).clamp(min=0).sqrt()
            row = torch.cat([torch.ones_like(both[:1]), both])
            sums += row @ row.T
        mean = sums[0, 1:] / sums[0, 0]
        spread = sums[1:, 1:] / sums[0, 0] - mean[:, None] * mean
        size = float((spread[0, 0] * spread[1, 1]).clamp(min=0).sqrt())
        total += float(spread[0, 1]) / size if size > 0 else 0.0
    return total / len(target.targets)


def totals(target: Target, state: State) -> float:
    """The factor on the crystal's photons that gives all the counts above the background: where
    those of a model that is off lie beside the spots, least squares have it too small."""
    counts = photons = 0.0
    for picture, found in zip(target.data.pictures, target.expected(state)):
        counts += float((picture.counts - found.background).sum())
        photons += float(found.bragg.sum())
    return counts / photons if photons > 0 else 0.0


def scaled_or_totals(target: Target, state: State) -> float:
    """By least squares, where these find any photons."""
    factor = scaled(target, state)
    return factor if factor > 0 else totals(target, state)
