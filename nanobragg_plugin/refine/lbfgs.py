"""L-BFGS's way down, by scipy: for many parameters.

Steps are taken in units of what the information at the start says of each parameter, and, where
bounds allow it and they are not too many, along combinations of them that are independent there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from nanobragg_plugin.refine.joint import Joint
from nanobragg_plugin.refine.minimise import ROUNDING, Found
from nanobragg_plugin.refine.slopes import loss_and_slopes
from nanobragg_plugin.refine.target import State

#: Of every parameter, in units of its sigma: the slope of half the loss at which it is found.
CONVERGED = 3e-3
#: Parameters up to which combinations are made of them.
COMBINED = 1000
#: L-BFGS's steps are cheaper than Levenberg's and Marquardt's, and smaller.
STEPS = 10
#: Pairs of steps and slopes that it remembers.
MEMORY = 30


@dataclass(frozen=True)
class Progress:
    """What is reported of a step."""

    loss: float
    chi_sqr: float
    n: int


@dataclass
class _Frame:
    """From scipy's vector to states: shared parameters are start + turn @ x, backgrounds start +
    of_boxes @ x; low and high [x] are bounds."""

    state: State
    turn: Tensor
    of_boxes: Tensor
    bounds: list[tuple[float, float]]


def minimise(
    target: Joint,
    state: State,
    iterations: int = 50,
    report: Callable[[int, Any, float], None] | None = None,
) -> Found:
    """As `minimise.minimise`; of iterations there are STEPS times as many."""
    frame = _frame(target, state)
    shared = len(target.shared_names)
    held = [frame.turn.T @ direction for direction in target.directions()]
    best: dict[str, Any] = {"loss": math.inf}
    losses: list[float] = []

    def of(x: np.ndarray) -> tuple[float, np.ndarray]:
        now = _state(target, frame, torch.from_numpy(x))
        loss, chi_sqr, gradient, boxes = loss_and_slopes(target, now)
        if not losses:
            if not math.isfinite(loss):
                raise ValueError("the loss is not a number at the start: there is no image there")
            losses.append(loss)
        along = frame.turn.T @ gradient
        for direction in held:
            along = along - direction * (direction @ along) / (direction @ direction)
        slope = torch.cat([along, (frame.of_boxes.mT @ boxes[..., None]).flatten()])
        if loss < best["loss"]:
            best.update(loss=loss, chi_sqr=chi_sqr, state=now)
        return (loss / 2 if math.isfinite(loss) else 1e300), -slope.numpy()

    def done(x: np.ndarray) -> None:
        losses.append(best["loss"])
        if report is not None:
            report(len(losses) - 1, Progress(best["loss"], best["chi_sqr"], target.n), 0.0)

    size = shared + frame.of_boxes.shape[0] * frame.of_boxes.shape[-1]
    options = {"maxiter": STEPS * iterations, "maxfun": 3 * STEPS * iterations, "maxcor": MEMORY}
    options |= {"gtol": CONVERGED, "ftol": ROUNDING / 10}
    bounds = frame.bounds + [(-math.inf, math.inf)] * (size - shared)
    found = minimize(
        *(of, np.zeros(size)),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        callback=done,
        options=options,
    )
    state = best["state"]
    # rounding may keep it from the last steps: no line leads down any more
    converged = bool(found.success) or _flat(found, losses)
    reason = "" if converged else f"L-BFGS: {found.message}"
    return Found(state, target.normal(state), tuple(losses), converged, reason)


def _flat(found: Any, losses: list[float]) -> bool:
    rounding = 10 * ROUNDING * abs(losses[-1]) + 1e-3
    return "ABNORMAL" in str(found.message) and float(np.square(found.jac).max()) < rounding


def _frame(target: Joint, state: State) -> _Frame:
    normal = target.normal(state)
    information, _ = replace(normal, held=()).reduced()
    free, shared = len(target.free), len(information)
    reach = torch.cat(
        [target.model.parameters.reach[target.numbers], torch.ones(shared - free).double()]
    )
    size = (information.diagonal() + reach**-2).rsqrt()
    turn = torch.diag(size)
    low, high = target.model.parameters.limits
    bounds = [(-math.inf, math.inf)] * shared
    limited = torch.zeros(shared, dtype=torch.bool)
    for place, number in enumerate(target.numbers.tolist()):
        ends = [(float(end[number]) - float(state.inner[number])) for end in (low, high)]
        # far ones are never met: 1000 sigma
        if min(abs(end) for end in ends) < 1000 * float(size[place]):
            limited[place] = True
            bounds[place] = tuple(end / float(size[place]) for end in ends)
    loose = (~limited).nonzero()[:, 0]
    if 1 < len(loose) <= COMBINED:
        inner = information[loose][:, loose] + torch.diag(reach[loose] ** -2)
        values, vectors = torch.linalg.eigh(size[loose, None] * inner * size[loose])
        made = size[loose, None] * vectors * values.clamp(min=1e-9).rsqrt()
        turn[loose[:, None], loose] = made
    return _Frame(state, turn, _box_turns(normal), bounds)


def _box_turns(normal: Any) -> Tensor:
    """[boxes, terms, terms] that make the backgrounds' information 1."""
    blocks = torch.cat([one.of_boxes for one in normal.each])
    if not blocks.shape[1]:
        return blocks
    values, vectors = torch.linalg.eigh(blocks)
    least = values[:, -1:].clamp(min=1e-12) * 1e-9
    return vectors * torch.maximum(values, least).rsqrt()[:, None, :]


def _state(target: Joint, frame: _Frame, x: Tensor) -> State:
    shared = len(frame.turn)
    boxes = x[shared:].reshape(*frame.of_boxes.shape[:2], 1)
    backgrounds = (frame.of_boxes @ boxes)[..., 0]
    step = frame.turn @ x[:shared]
    return target.moved(frame.state, step, backgrounds)
