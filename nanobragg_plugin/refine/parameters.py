"""Parameters of a refinement: their names, units, scales and limits, and the vector of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

IDENTITY, LOG = "identity", "log"


@dataclass(frozen=True)
class Parameter:
    """One number that is refined.

    value: its start, in `unit`; reach: by how much it might be wrong at all, in `unit`, or of a
    `log` parameter as a ratio's logarithm: what the data leave more uncertain than this they do not
    determine; transform: `identity` or `log`, in which steps are taken; bounds: in `unit`; prior:
    (mean, sigma), in `unit`, a gaussian restraint, or None.
    """

    name: str
    unit: str
    value: float
    reach: float
    transform: str = IDENTITY
    bounds: tuple[float, float] = (-math.inf, math.inf)
    prior: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        low, high = self.bounds
        if self.transform not in (IDENTITY, LOG):
            raise ValueError(
                f"{self.name}: transform {self.transform!r} is neither identity nor log"
            )
        if self.transform == LOG and not self.value > 0:
            raise ValueError(f"{self.name} is {self.value}: the logarithm needs one above 0")
        if not math.isfinite(self.value) or not low <= self.value <= high:
            raise ValueError(f"{self.name} is {self.value}, not from {low} to {high}")
        if not self.reach > 0 or (self.prior is not None and not self.prior[1] > 0):
            raise ValueError(f"{self.name}: reach and the prior's sigma must be above 0")


class Parameters:
    """Parameters in a row. "Inner" vectors are what steps are taken in (after the transforms),
    "outer" ones are values in the parameters' units; both [p], float64."""

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self.all = tuple(parameters)
        self.names = tuple(one.name for one in self.all)
        doubled = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if doubled:
            raise ValueError(f"parameters of the same name: {', '.join(doubled)}")

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, name: str) -> Parameter:
        return self.all[self.names.index(name)]

    @cached_property
    def _is_log(self) -> Tensor:
        return torch.tensor([one.transform == LOG for one in self.all], dtype=torch.bool)

    @cached_property
    def reach(self) -> Tensor:
        """[p], of inner ones."""
        return _vector(one.reach for one in self.all)

    @cached_property
    def start(self) -> Tensor:
        """Inner [p]."""
        return self.inner(_vector(one.value for one in self.all))

    def inner(self, outer: Tensor) -> Tensor:
        """Inner vector of an outer one."""
        safe = torch.where(self._is_log, outer, torch.ones_like(outer))
        return torch.where(self._is_log, safe.log(), outer)

    def outer(self, inner: Tensor) -> Tensor:
        """Outer vector of an inner one, differentiable."""
        safe = torch.where(self._is_log, inner, torch.zeros_like(inner))
        return torch.where(self._is_log, safe.exp(), inner)

    def slopes(self, inner: Tensor) -> Tensor:
        """[p]: d outer / d inner."""
        return torch.where(self._is_log, self.outer(inner), torch.ones_like(inner))

    @cached_property
    def limits(self) -> tuple[Tensor, Tensor]:
        """Inner [p], lowest and highest."""
        bounds = [
            [math.log(max(b, 0.0)) if b > 0 else -math.inf for b in one.bounds]
            if one.transform == LOG
            else one.bounds
            for one in self.all
        ]
        return _vector(low for low, _ in bounds), _vector(high for _, high in bounds)

    def clamped(self, inner: Tensor) -> Tensor:
        """Within the bounds."""
        return torch.minimum(torch.maximum(inner, self.limits[0]), self.limits[1])

    @cached_property
    def _restraints(self) -> tuple[Tensor, Tensor]:
        """Means [p] and 1/sigma^2 [p], outer ones."""
        mean = _vector(one.value if one.prior is None else one.prior[0] for one in self.all)
        weight = _vector(0.0 if one.prior is None else one.prior[1] ** -2 for one in self.all)
        return mean, weight

    def prior(self, inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the restraints sum ((value - mean)/sigma)^2 [], half its gradient [p] and half its
        curvature [p] (Gauss and Newton's)."""
        mean, weight = self._restraints
        away, slopes = self.outer(inner) - mean, self.slopes(inner)
        return (weight * away**2).sum(), weight * away * slopes, weight * slopes**2


def _vector(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)
