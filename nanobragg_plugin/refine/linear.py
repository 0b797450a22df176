"""Models near a point, as linear functions of the parameters.

The models of all images are made of the same numbers, and each image asks for them several times a
parameter: here they are differentiated once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from nanobragg_plugin.models import Experiment, Exposure, tensors_of
from nanobragg_plugin.orientation import points_of


@dataclass(frozen=True)
class Linear:
    """models, an experiment first, at `point` [p]; changes: of each of their tensors by which
    parameters it changes, and by how much with each."""

    models: Any
    point: Tensor
    changes: tuple[tuple[tuple[int, Tensor], ...], ...]

    def __call__(self, parameters: Tensor) -> Any:
        """The models at parameters [p] near the point, which may be dual numbers.

        Tangents are put together by hand: torch takes half a millisecond for an operation of a dual
        number with a plain one.
        """
        value, tangent = forward_ad.unpack_dual(parameters)
        step = (value - self.point).tolist()
        along = [0.0] * len(step) if tangent is None else tangent.tolist()
        pairs = zip(tensors_of(*self.models), self.changes)
        return with_tensors(self.models, iter([_moved(*pair, step, along) for pair in pairs]))

    @cached_property
    def _touched(self) -> tuple[Tensor, list[Tensor]]:
        """Which parameters [p] change what all images see, and of each tensor of scan points
        which [points, p] change what is seen at a point."""
        always, at_points = torch.zeros(len(self.point), dtype=torch.bool), []
        pointed = {id(one) for one in _pointed(self.models[0])}
        for tensor, changes in zip(tensors_of(*self.models), self.changes):
            if id(tensor) not in pointed or len(tensor) == 1:
                always[[number for number, _ in changes]] = True
                continue
            seen = torch.zeros(len(tensor), len(self.point), dtype=torch.bool)
            for number, change in changes:
                seen[:, number] = change.flatten(1).any(1)
            at_points.append(seen)
        return always, at_points

    def seen_in(self, exposure: Exposure) -> Tensor:
        """Numbers [k] of the parameters that change what an image sees: those which move scan
        points of other images alone do not."""
        seen, at_points = self._touched
        for one in at_points:
            first, last = points_of(exposure, len(one))
            seen = seen | one[first : last + 1].any(0)
        return seen.nonzero()[:, 0]

    def of(self, which: Tensor) -> Linear:
        """The same models as a function of some of the parameters, of these numbers [k]."""
        if len(which) == len(self.point):
            return self
        at = {number: place for place, number in enumerate(which.tolist())}
        changes = tuple(
            tuple((at[number], change) for number, change in one if number in at)
            for one in self.changes
        )
        return Linear(self.models, self.point[which], changes)


def _pointed(experiment: Experiment) -> tuple[Tensor, ...]:
    """What an experiment has at scan points."""
    beam = experiment.beam
    return experiment.crystal.A, experiment.goniometer.setting, beam.direction, beam.wavelength


def _moved(
    tensor: Tensor, changes: tuple[tuple[int, Tensor], ...], step: list[float], along: list[float]
) -> Tensor:
    """A tensor after a step, with the tangent that a direction `along` gives it."""
    for number, change in changes:
        if step[number]:
            tensor = tensor + step[number] * change
    tangents = [along[number] * change for number, change in changes if along[number]]
    return forward_ad.make_dual(tensor, sum(tangents)) if tangents else tensor


def linear(make: Callable[[Tensor], Any], point: Tensor) -> Linear:
    """Of what makes a tuple of dataclasses of parameters, at a point [p]."""
    models = make(point)
    leaves = list(tensors_of(*models))
    if len(point) == 0:
        return Linear(models, point, ((),) * len(leaves))
    numbers = [i for i, leaf in enumerate(leaves) if leaf.is_floating_point()]

    def floats(parameters: Tensor) -> tuple[Tensor, ...]:
        found = list(tensors_of(*make(parameters)))
        return tuple(found[i] for i in numbers)

    slopes = dict(zip(numbers, torch.func.jacfwd(floats)(point)))
    changes = tuple(tuple(_nonzero(slopes[i])) if i in slopes else () for i in range(len(leaves)))
    return Linear(models, point, changes)


def _nonzero(slopes: Tensor) -> Iterator[tuple[int, Tensor]]:
    if slopes.stride(-1) == 0 and not bool(slopes[..., 0].any()):
        return  # one zero for all parameters, of a tensor that depends on none
    for number in range(slopes.shape[-1]):
        change = slopes[..., number]
        if bool(change.any()):
            yield number, change.contiguous()


def with_tensors(thing: Any, tensors: Iterator[Tensor]) -> Any:
    """The same dataclasses and tuples, their tensors replaced in the order of `tensors_of`."""
    if isinstance(thing, Tensor):
        return next(tensors)
    if isinstance(thing, tuple):
        return tuple(with_tensors(one, tensors) for one in thing)
    if is_dataclass(thing):
        # vars has the order of the fields, as tensors_of takes them
        names = [field.name for field in fields(thing)]
        made = {name: with_tensors(getattr(thing, name), tensors) for name in names}
        return replace(thing, **made)
    return thing
