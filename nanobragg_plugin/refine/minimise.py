"""Levenberg's and Marquardt's way down, with Fisher's information for second derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanobragg_plugin.refine.target import Normal, State, Target

#: Of the damping: the first, the least, and the one at which nothing moves any more.
DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-3, 1e-9, 1e9
#: The expected fall of the loss at which it is found: steps are three hundredths of a sigma then.
CONVERGED = 1e-3
#: The same where the loss does not fall any more: steps are a tenth of a sigma.
NEARLY = 1e-2
#: How often a step is solved for while parts of it meet their limits.
LIMITED = 8
#: What rounding may hide of a fall of the loss, relative to it (pixels are float32).
ROUNDING = 1e-8


@dataclass(frozen=True)
class Found:
    """Where the search ended: the best state, its normal equations, the losses of all that were
    accepted; converged, or reason: why not."""

    state: State
    normal: Normal
    losses: tuple[float, ...]
    converged: bool
    reason: str


def minimise(
    target: Target,
    state: State,
    iterations: int = 50,
    report: Callable[[int, Normal, float], None] | None = None,
) -> Found:
    """From a state down to where the expected fall of the loss is CONVERGED.

    report is called with the number of the iteration, its normal equations and the damping.
    ValueError where the loss is not a number at the start.
    """
    normal, damping = target.normal(state), DAMPING
    if not math.isfinite(normal.loss):
        raise ValueError("the loss is not a number at the start: the models make no image there")
    losses, reason = [normal.loss], f"{iterations} iterations were not enough"
    for iteration in range(1, iterations + 1):
        step, backgrounds, fall = _step(target, state, normal, damping)
        if fall < CONVERGED and damping <= DAMPING:
            return Found(state, normal, tuple(losses), True, "")
        moved = target.moved(state, step, backgrounds)
        tried = target.normal(moved)
        if math.isfinite(tried.loss) and tried.loss < normal.loss:
            state, normal = moved, tried
            losses.append(normal.loss)
            damping = max(damping / 10, LEAST_DAMPING)
        elif fall < max(CONVERGED, ROUNDING * abs(normal.loss)):
            # small because it was damped, or because there is nowhere to go?
            reason = "no step leads down, though the slopes say so"
            _, _, fall = _step(target, state, normal, 0.0)
            converged = fall < max(NEARLY, ROUNDING * abs(normal.loss))
            return Found(state, normal, tuple(losses), converged, "" if converged else reason)
        else:
            damping *= 10
        if report is not None:
            report(iteration, normal, damping)
        if damping > MOST_DAMPING:
            reason = "no step, however small, leads down"
            break
    return Found(state, normal, tuple(losses), False, reason)


def _step(
    target: Target, state: State, normal: Normal, damping: float
) -> tuple[Tensor, Tensor, float]:
    """Steps of the shared parameters and of the backgrounds, and the fall of the loss that they
    promise."""
    damped = normal.damped(damping)
    information, gradient = damped.reduced()
    held, lowest = _held(target, state, gradient), target.lowest(state)
    step = torch.zeros_like(gradient)
    for _ in range(LIMITED):  # what would go too low goes as low as it may, and the rest with it
        free, fixed = (~held).nonzero()[:, 0], held.nonzero()[:, 0]
        if len(free):
            rest = gradient[free] - information[free][:, fixed] @ step[fixed]
            step[free] = _solved(information[free][:, free], rest)
        low = ~held & (step < lowest)
        if not low.any():
            break
        step = torch.where(low, lowest, step)
        held = held | low
    backgrounds = damped.backgrounds(step)
    step = target.bent(state, step)
    # as far as they go: none falls below 0
    backgrounds = target.moved(state, step, backgrounds).background - state.background
    promised = (step * normal.gradient).sum() + (backgrounds * normal.box_gradient).sum()
    return step, backgrounds, float(promised)


def _solved(information: Tensor, gradient: Tensor) -> Tensor:
    """The step, of no length along what no pixel depends on."""
    size = information.diagonal().clamp(min=0).sqrt()
    size = torch.where(size > 0, size, torch.ones_like(size))
    values, vectors = torch.linalg.eigh(information / (size[:, None] * size))
    safe = values > 1e-13 * values.max().clamp(min=1e-300)
    inverse = torch.where(safe, 1 / torch.where(safe, values, torch.ones_like(values)), 0.0)
    return vectors @ (inverse * (vectors.T @ (gradient / size))) / size


def _held(target: Target, state: State, gradient: Tensor) -> Tensor:
    """[s]: which parameters are at a bound beyond which the loss would fall."""
    numbers = target.numbers
    inner = state.inner[numbers]
    low, high = (limit[numbers] for limit in target.model.parameters.limits)
    ways = gradient[: len(numbers)]
    held = torch.zeros_like(gradient, dtype=torch.bool)
    held[: len(numbers)] = ((inner <= low) & (ways < 0)) | ((inner >= high) & (ways > 0))
    return held
