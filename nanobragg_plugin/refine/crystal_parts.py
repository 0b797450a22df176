"""A crystal's orientation and cell as parameters, the same for a whole scan or varying along it.

What varies has, beside the number that is the same for all images (`a`), numbers of a curve
(`a[0]`, `a[1]`, ...: `splines.design`), which is added to it. Only one of the two can be free at a
time: the same change of all numbers of a curve is one of the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from nanobragg_plugin.cell import b_matrix
from nanobragg_plugin.constants import RTD
from nanobragg_plugin.models import Experiment
from nanobragg_plugin.refine.parameters import Parameter
from nanobragg_plugin.rotation import from_vector
from nanobragg_plugin.structure_factors import StructureFactors

Models = tuple[Experiment, StructureFactors]


def _with_a(models: Models, matrices: Tensor) -> Models:
    experiment, factors = models
    return replace(experiment, crystal=replace(experiment.crystal, A=matrices)), factors


def _along(one: Iterable[Parameter], design: Tensor | None) -> tuple[Parameter, ...]:
    """Parameters, and those of their curves, one curve after another."""
    same = tuple(one)
    knots = range(0 if design is None else design.shape[1])
    curves = (replace(p, name=f"{p.name}[{knot}]") for p in same for knot in knots)
    return (*same, *curves)


def _changes(values: Tensor, start: Tensor, design: Tensor | None) -> Tensor:
    """[points or 1, k]: what is added to each of k numbers, of values [k, then k curves]."""
    count = len(start)
    same = (values[:count] - start)[None]
    if design is None:
        return same
    curves = values[count:].reshape(count, -1) - start[:, None]
    return same + design.to(values) @ curves.T


@dataclass(frozen=True)
class Cell:
    """cells [points, 6] at the start, Angstrom and degrees; names and values of those that are
    free, and matrix [6, free]: what they change the six by, as the space group has it; design
    [points, knots] of what varies along the scan, None: nothing."""

    cells: Tensor
    names: tuple[str, ...]
    values: tuple[float, ...]
    matrix: Tensor
    design: Tensor | None = None

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        edge = {"a", "b", "c"}
        same = (
            Parameter(name, "A" if name in edge else "deg", value, 0.03 * value)
            if name in edge
            else Parameter(name, "deg", value, 3.0)
            for name, value in zip(self.names, self.values)
        )
        return _along(same, self.design)

    def changes(self, values: Tensor) -> Tensor:
        """[points or 1, 6]: of the cells."""
        start = self.cells.new_tensor(self.values)
        return _changes(values, start, self.design) @ self.matrix.T

    def apply(self, models: Models, values: Tensor) -> Models:
        changed = self.cells + self.changes(values)
        turn = models[0].crystal.A @ torch.linalg.inv(b_matrix(self.cells))
        return _with_a(models, turn @ b_matrix(changed))


@dataclass(frozen=True)
class Orientation:
    """A rotation vector, degrees, in the laboratory with the goniometer at datum; design
    [points, knots] of what varies along the scan, None: nothing."""

    design: Tensor | None = None

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        same = (Parameter(f"rotation_{axis}", "deg", 0.0, 3.0) for axis in "xyz")
        return _along(same, self.design)

    def changes(self, values: Tensor) -> Tensor:
        """[points or 1, 3]: rotation vectors, degrees."""
        return _changes(values, values.new_zeros(3), self.design)

    def apply(self, models: Models, values: Tensor) -> Models:
        turn = from_vector(self.changes(values) / RTD)
        return _with_a(models, turn @ models[0].crystal.A)
