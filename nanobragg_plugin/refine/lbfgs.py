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
from nanobragg_plugin.refine.minimise import ROUNDING, Found, status_of, stopped_by, usable
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
    search = _Search(target, _frame(target, state), report)
    stopped, converged, reason = 0, False, ""
    try:
        found = search.run(STEPS * iterations)
        # rounding may keep it from the last steps: no line leads down any more
        converged = bool(found.success) or _flat(found, search.losses)
        reason = "" if converged else _reason(found, STEPS * iterations)
        if converged and search.lost and search.steepest > CONVERGED:
            converged, reason = False, "L-BFGS is led to where the models make no image"
    except (KeyboardInterrupt, SystemExit) as stop:
        if search.state is None:
            raise
        stopped, reason = status_of(stop), stopped_by(stop)
    end = search.state
    losses = search.losses + [search.loss] * (search.loss < search.losses[-1])
    return Found(end, target.normal(end), tuple(losses), converged, reason, stopped)


class _Search:
    """scipy's search, and the best it has met: state, loss, chi_sqr and steepest slope; losses of
    all steps; lost: how often there was no image."""

    def __init__(self, target: Joint, frame: _Frame, report: Callable | None) -> None:
        self.target, self.frame, self.report = target, frame, report
        self.held = [frame.turn.T @ direction for direction in target.directions()]
        self.state: State | None = None
        self.loss = self.chi_sqr = math.inf
        self.best, self.steepest = np.zeros(0), math.inf
        self.lost = 0
        self.losses: list[float] = []

    def run(self, most: int) -> Any:
        """What scipy says of it."""
        shared, (boxes, _, terms) = len(self.frame.turn), self.frame.of_boxes.shape
        size = shared + boxes * terms
        options = {"maxiter": most, "maxfun": 3 * most, "maxcor": MEMORY}
        options |= {"gtol": CONVERGED, "ftol": ROUNDING / 10}
        bounds = self.frame.bounds + [(-math.inf, math.inf)] * (size - shared)
        of = {"jac": True, "method": "L-BFGS-B", "bounds": bounds, "options": options}
        return minimize(self.of, np.zeros(size), callback=self.done, **of)

    def of(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Half the loss, and its slopes."""
        now = _state(self.target, self.frame, torch.from_numpy(x))
        loss, slope = math.nan, np.full(len(x), math.nan)
        try:
            loss, chi_sqr, *slopes = loss_and_slopes(self.target, now)
            slope = self._along(*slopes)
        except (ValueError, ArithmeticError, torch.linalg.LinAlgError):
            if not self.losses:
                raise
        if not (math.isfinite(loss) and np.isfinite(slope).all()):
            if not self.losses:
                raise ValueError("the loss has no slopes at the start")
            self.lost += 1
            # where there is no image the line leads back up to where there was one
            away = x - self.best
            return abs(self.loss) + 1 + float(away @ away), 2 * away
        if not self.losses:
            self.losses.append(loss)
        if loss < self.loss:
            self.loss, self.chi_sqr, self.state, self.best = loss, chi_sqr, now, x.copy()
            self.steepest = float(np.abs(slope).max())
        return loss / 2, slope

    def _along(self, gradient: Tensor, boxes: Tensor) -> np.ndarray:
        along = self.frame.turn.T @ gradient
        for direction in self.held:
            along = along - direction * (direction @ along) / (direction @ direction)
        of_boxes = self.frame.of_boxes.mT @ boxes[..., None]
        return -torch.cat([along, of_boxes.flatten()]).numpy()

    def done(self, x: np.ndarray) -> None:
        """After a step."""
        self.losses.append(self.loss)
        if self.report is not None:
            progress = Progress(self.loss, self.chi_sqr, self.target.n)
            self.report(len(self.losses) - 1, progress, 0.0)


def _reason(found: Any, most: int) -> str:
    """What scipy's words mean."""
    if found.nit >= most or found.nfev >= 3 * most:
        return f"{most} steps of L-BFGS were not enough"
    if "ABNORMAL" in str(found.message):
        return "no line along which L-BFGS searches leads down"
    return f"L-BFGS: {found.message}"


def _flat(found: Any, losses: list[float]) -> bool:
    rounding = 10 * ROUNDING * abs(losses[-1]) + 1e-3
    return "ABNORMAL" in str(found.message) and float(np.square(found.jac).max()) < rounding


def _frame(target: Joint, state: State) -> _Frame:
    normal = target.normal(state)
    if not usable(normal):
        raise ValueError("the loss is not a number at the start: the models make no image there")
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
