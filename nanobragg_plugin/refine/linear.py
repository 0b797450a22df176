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

from nanobragg_plugin.models import Exposure, tensors_of
from nanobragg_plugin.orientation import points_of

#: Of the largest change of what an image sees: below this there is none but rounding.
ROUNDING = 1e-12


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
    def _pointed(self) -> dict[int, Tensor]:
        """Of the tensors, by their numbers, that have scan points, which [points, p] parameters
        change what is seen at a point."""
        experiment, found = self.models[0], {}
        beam = experiment.beam
        vary = experiment.crystal.A, experiment.goniometer.setting, beam.direction, beam.wavelength
        for at, tensor in enumerate(tensors_of(*self.models)):
            if len(tensor.shape) and len(tensor) > 1 and any(tensor is one for one in vary):
                found[at] = torch.zeros(len(tensor), len(self.point), dtype=torch.bool)
                for number, change in self.changes[at]:
                    found[at][:, number] = change.flatten(1).any(1)
        return found

    @cached_property
    def _always(self) -> Tensor:
        """[p]: whether a parameter changes more than what there is at scan points."""
        always = torch.zeros(len(self.point), dtype=torch.bool)
        for at, changes in enumerate(self.changes):
            if at not in self._pointed:
                always[[number for number, _ in changes]] = True
        return always

    def seen_in(self, exposure: Exposure) -> Tensor:
        """Numbers [k] of the parameters that change what an image sees: those which move scan
        points of other images alone do not."""
        seen = self._always
        for one in self._pointed.values():
            first, last = points_of(exposure, len(one))
            seen = seen | one[first : last + 1].any(0)
        return seen.nonzero()[:, 0]

    def seen_by(self, exposure: Exposure) -> tuple[Linear, Tensor, Tensor]:
        """For an image: the models as a function of a few numbers [r], which [k] parameters change
        what it sees, and mix [k, r]: its derivatives by those are mix times its derivatives by
        these.

        An image sees a curve at two points alone, of which there are fewer combinations than
        numbers of the curve that act there.
        """
        which = self.seen_in(exposure)
        own, always = self.of(which), self._always[which]
        along = (~always).nonzero()[:, 0]
        cuts = {at: points_of(exposure, len(one)) for at, one in self._pointed.items()}
        tensors = list(tensors_of(*self.models))
        parts = {at: tensors[at][first : last + 1] for at, (first, last) in cuts.items()}
        numels = [one.numel() for one in parts.values()]
        changes = own.point.new_zeros(len(which), sum(numels))
        places = dict(zip(parts, changes.split(numels, 1)))
        for at, (first, last) in cuts.items():
            for number, change in own.changes[at]:
                places[at][number] = change[first : last + 1].flatten()
        left, sizes, right = torch.linalg.svd(changes[along], full_matrices=False)
        rank = int((sizes > ROUNDING * sizes[:1]).sum())
        if rank == len(along):
            return own, which, torch.eye(len(which), dtype=own.point.dtype)
        others = always.nonzero()[:, 0]
        few, count = list(own.of(others).changes), len(others)
        for at, rows in zip(parts, right[:rank].split(numels, 1)):
            first, last = cuts[at]
            for number, row in enumerate(rows):
                change = torch.zeros_like(tensors[at])
                change[first : last + 1] = row.reshape(parts[at].shape)
                few[at] = (*few[at], (count + number, change))
        mix = own.point.new_zeros(len(which), count + rank)
        mix[others, torch.arange(count)] = 1
        mix[along, count:] = left[:, :rank] * sizes[:rank]
        point = torch.cat([own.point[others], own.point.new_zeros(rank)])
        return Linear(self.models, point, tuple(few)), which, mix

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
