"""Levenberg's and Marquardt's way down, with Fisher's information for second derivatives."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nanobragg_plugin.refine.settled import ROUNDS
from nanobragg_plugin.refine.target import Normal, State, Target

#: Of the damping: the first, the least, and the one at which nothing moves any more.
DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-3, 1e-9, 1e9
#: The expected fall of the loss at which it is found: steps of the shared parameters are three
#: hundredths of a sigma then. (Backgrounds follow, each in its box.)
CONVERGED = 1e-3
#: The same where the loss does not fall any more: steps are a tenth of a sigma.
NEARLY = 1e-2
#: Parameters from which on the former grows as they do, up to the latter.
MANY = 100
#: Of the fall that a step promises: what it must have brought for the next to be damped less.
POOR = 0.3
#: How often a step is solved for while parts of it meet their limits.
LIMITED = 8
#: The part of a background's step that is no matter where it is stopped.
SHORT = 1e-3
#: What rounding may hide of a fall of the loss, relative to it (pixels are float32).
ROUNDING = 1e-8


@dataclass(frozen=True)
class Found:
    """Where the search ended: the best state, its normal equations, the losses of all that were
    accepted; converged, or reason: why not; stopped: the exit status where Ctrl-C or SIGTERM ended
    it, or 0."""

    state: State
    normal: Normal
    losses: tuple[float, ...]
    converged: bool
    reason: str
    stopped: int = 0


def minimise(
    target: Target,
    state: State,
    iterations: int = 50,
    report: Callable[[int, Normal, float], None] | None = None,
    settles: bool = True,
) -> Found:
    """From a state down to where the expected fall of the loss is CONVERGED.

    settles: whether backgrounds follow all the way at every step; far from the truth they would
    take up what the crystal's photons should. report is called with the number of the
    iteration, its normal equations and the damping.

    ValueError where the loss or its slopes are no numbers at the start.
    """
    normal = target.normal(state)
    if not usable(normal):
        raise ValueError("the loss is not a number at the start: the models make no image there")
    best = [Found(state, normal, (normal.loss,), False, "")]
    try:
        reason = _descend(target, best, iterations, report, ROUNDS if settles else 0)
    except (KeyboardInterrupt, SystemExit) as stop:
        return replace(best[0], reason=stopped_by(stop), stopped=status_of(stop))
    return replace(best[0], converged=not reason, reason=reason)


def _descend(
    target: Target,
    best: list[Found],
    iterations: int,
    report: Callable[[int, Normal, float], None] | None,
    rounds: int,
) -> str:
    """Puts what is better in the place of the best, which is the list's only one; why there is no
    way further down, or "" where it is as low as it gets."""
    damping = DAMPING
    # with derivatives images are summed otherwise: losses are compared without
    _, least = target.settled(best[0].state, 0)
    for iteration in range(1, iterations + 1):
        state, normal = best[0].state, best[0].normal
        step, backgrounds, fall, shared = _step(target, state, normal, damping)
        # that of all together: where they are many, each has its share
        small = min(NEARLY, CONVERGED * max(1.0, len(step) / MANY))
        misfit = max(1.0, normal.chi_sqr / normal.n)  # sigmas are larger where models do not fit
        small *= misfit
        if shared < small and damping > DAMPING:  # because it is damped?
            shared = max(shared, _step(target, state, normal, 0.0)[3])
        if shared < small:
            return ""
        moved = target.moved(state, step, backgrounds)
        moved, tried, loss = _tried(target, moved, least, rounds)
        if tried is not None:
            best[0] = Found(moved, tried, (*best[0].losses, tried.loss), False, "")
            # where the loss is more curved than the information has it the next would go too far
            if least - loss > POOR * fall:
                damping = max(damping / 10, LEAST_DAMPING)
            least = loss
        elif fall < max(CONVERGED, ROUNDING * abs(normal.loss)):
            # small because it was damped, or because there is nowhere to go?
            *_, fall, _ = _step(target, state, normal, 0.0)
            nearly = fall < max(misfit * NEARLY, ROUNDING * abs(normal.loss))
            return "" if nearly else "no step leads down, though the slopes say so"
        else:
            damping = max(10 * damping, DAMPING)  # much less changes no step
        if report is not None:
            report(iteration, best[0].normal, damping)
        if damping > MOST_DAMPING:
            return "no step, however small, leads down"
    return f"{iterations} iterations were not enough"


def usable(normal: Any) -> bool:
    """Whether all of it are numbers: a model may leave its domain on the way."""
    if not math.isfinite(normal.loss):
        return False
    try:
        information, gradient = normal.arrow()
        return information.finite() and bool(torch.isfinite(gradient).all())
    except torch.linalg.LinAlgError:
        return False


def _tried(
    target: Target, state: State, least: float, rounds: int
) -> tuple[State, Normal | None, float]:
    """A state with the backgrounds that fit best, its normal equations, and its loss; None: there
    are none, or the loss is no less."""
    loss = math.inf
    try:
        state, loss = target.settled(state, rounds)
        # without derivatives first, which take several times as long
        normal = target.normal(state) if loss < least else None
        return state, normal if normal is not None and usable(normal) else None, loss
    except (ValueError, ArithmeticError, torch.linalg.LinAlgError):
        # no cell has such angles, no detector lies there
        return state, None, loss


def status_of(stop: BaseException) -> int:
    """The exit status of what stopped a search, the shell's: of Ctrl-C 130."""
    code = getattr(stop, "code", 128 + signal.SIGINT)
    return code if isinstance(code, int) and code else 1


def stopped_by(stop: BaseException) -> str:
    """The reason that is said of it."""
    return "it was stopped, by " + ("SIGTERM" if isinstance(stop, SystemExit) else "Ctrl-C")


def _step(
    target: Target, state: State, normal: Normal, damping: float
) -> tuple[Tensor, Tensor, float, float]:
    """Steps of the shared parameters and of the backgrounds; the fall of the loss that they
    promise, and that of the shared ones alone where backgrounds follow."""
    damped = normal.damped(damping)
    for _ in range(2):
        step, gradient = _shared(target, state, damped)
        shared, asked = float(step @ gradient), damped.backgrounds(step)
        step = target.bent(state, step)
        # as far as they go: none falls below 0
        backgrounds = target.moved(state, step, asked).background - state.background
        short = ((backgrounds - asked).abs() > SHORT * asked.abs()).any(1)
        if not short.any():
            break
        # those that are stopped do not follow what is shared, which should not count on it
        damped = damped.taking(short, backgrounds)
    promised = (step * normal.gradient).sum() + (backgrounds * normal.box_gradient).sum()
    return step, backgrounds, float(promised), shared


def _shared(target: Target, state: State, normal: Normal) -> tuple[Tensor, Tensor]:
    """The step [s] of the shared parameters within their limits, where backgrounds follow, and the
    gradient that it goes by."""
    information, gradient = normal.arrow()
    held, lowest = _held(target, state, gradient), target.lowest(state)
    step = torch.zeros_like(gradient)
    for _ in range(LIMITED):  # what would go too low goes as low as it may, and the rest with it
        fixed, free = torch.where(held, step, 0.0), (~held).double()
        rest = free * (gradient - information.times(fixed))
        step = fixed + free * information.scaled(free).solved(rest)
        low = ~held & (step < lowest)
        if not low.any():
            break
        step = torch.where(low, lowest, step)
        held = held | low
    return step, gradient


def _held(target: Target, state: State, gradient: Tensor) -> Tensor:
    """[s]: which parameters are at a bound beyond which the loss would fall."""
    numbers = target.numbers
    inner = state.inner[numbers]
    low, high = (limit[numbers] for limit in target.model.parameters.limits)
    ways = gradient[: len(numbers)]
    held = torch.zeros_like(gradient, dtype=torch.bool)
    held[: len(numbers)] = ((inner <= low) & (ways < 0)) | ((inner >= high) & (ways > 0))
    return held
