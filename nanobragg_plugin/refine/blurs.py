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
from nanobragg_plugin.refine.target import State, projected

#: How much, of what may be chosen; each is followed by its half, down to 2.
BLURS = (1.0, 2.0, 4.0, 8.0)


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
    """Of BLURS the one whose photons, on the scale that fits best, explain most of the counts above
    the background: 1 of a start that is near."""
    coarse = replace(target, targets=tuple(map(sampled.coarse, target.targets)), free=())
    return max(BLURS, key=lambda blur: explained(coarse, blurred(built, state, blur)))


def explained(target: Joint, state: State) -> float:
    """By how much the crystals' photons lower the weighted sum of squares, each experiment's on the
    scale that fits it best."""
    total = 0.0
    for own, its_state in zip(target.own, target.states(state)):
        above, below = projected(own, its_state)
        total += max(above, 0.0) ** 2 / below if below > 0 else 0.0
    return total if math.isfinite(total) else 0.0
