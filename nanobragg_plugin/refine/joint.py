"""Several experiments refined together: what they share is one parameter, what is their own many.

A `Joint` has what a `Target` has for the search, the sigmas and the report; each experiment keeps
its own target, whose normal equations, backgrounds eliminated, add up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from nanobragg_plugin.refine.data import Data, Picture
from nanobragg_plugin.refine.joint_model import JointModel
from nanobragg_plugin.refine.joint_normal import JointNormal
from nanobragg_plugin.refine.normal import (
    Expected,
    State,
    kinds_of_images,
    moved_images,
)
from nanobragg_plugin.refine.settled import ROUNDS
from nanobragg_plugin.refine.target import Target


@dataclass(frozen=True)
class Joint:
    """targets: of the experiments, without priors; numbers_of: what they are called; free: names of
    parameters of `model` that are; image_scales, image_b: as of a target; held: groups of names,
    and of what these two have, whose mean stays as it is, where `amplitudes` (names) are free,
    which would take it up."""

    model: JointModel
    targets: tuple[Target, ...]
    numbers_of: tuple[int, ...]
    free: tuple[str, ...] = ()
    image_scales: bool = False
    held: tuple[tuple[str, ...], ...] = ()
    amplitudes: frozenset[str] = frozenset()
    image_b: bool = False

    @cached_property
    def own(self) -> tuple[Target, ...]:
        """The targets, each with those of its parameters free that are."""
        names, free = self.model.parameters.names, set(self.free)
        found = []
        for target, place in zip(self.targets, self.model.places):
            pairs = zip(target.model.parameters.names, place.tolist())
            mine = tuple(name for name, at in pairs if names[at] in free)
            own = {"image_scales": self.image_scales, "image_b": self.image_b}
            found.append(replace(target, free=mine, **own))
        return tuple(found)

    def watched(self, progress: Callable[[], object]) -> Joint:
        """The same, with what is called after each image that is simulated."""
        return replace(
            self, targets=tuple(replace(target, progress=progress) for target in self.targets)
        )

    @property
    def terms(self) -> int:
        """Of a background."""
        return self.targets[0].terms

    @property
    def data(self) -> Data:
        """All pictures; the boxes of each experiment count from 0."""
        pictures = tuple(one for target in self.targets for one in target.data.pictures)
        return Data(pictures, sum(target.data.boxes for target in self.targets))

    @cached_property
    def numbers(self) -> Tensor:
        """Places of the free parameters among all."""
        at = {name: place for place, name in enumerate(self.model.parameters.names)}
        unknown = [name for name in self.free if name not in at]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: the parameters are {', '.join(at)}")
        return torch.tensor([at[name] for name in self.free], dtype=torch.int64)

    @property
    def shared_names(self) -> tuple[str, ...]:
        """Of free parameters, then scales of images, experiment by experiment, then their B."""
        several = len(self.targets) > 1
        of_images = [
            f"{kind}_{one.number}.{number}" if several else f"{kind}_{one.number}"
            for kind in self.kinds
            for number, one in self.picture_names()
        ]
        return (*self.free, *of_images)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each image has of its own: scale, B."""
        return kinds_of_images(self.image_scales, self.image_b)

    @cached_property
    def places(self) -> tuple[Tensor, ...]:
        """Of each target's shared parameters, where they are among all that are shared."""
        at = {number: place for place, number in enumerate(self.numbers.tolist())}
        found, first, all_images = [], len(self.free), len(self.picture_names())
        for target, place in zip(self.own, self.model.places):
            mine = [at[number] for number in place[target.numbers].tolist()]
            count = len(target.data.pictures)
            for kind in range(len(self.kinds)):
                mine += range(first + kind * all_images, first + kind * all_images + count)
            found.append(torch.tensor(mine, dtype=torch.int64))
            first += count
        return tuple(found)

    @property
    def widest(self) -> int:
        """Rows of the largest matrix that is solved for a step: of parameters that several
        experiments have, or of one's own."""
        if len(self.targets) == 1:
            return len(self.shared_names)
        count = torch.bincount(torch.cat(self.places), minlength=len(self.shared_names))
        held = [direction != 0 for direction in self.directions()]
        several = torch.stack([count > 1, *held]).any(0)
        return max(int(several.sum()), *(int((~several[place]).sum()) for place in self.places))

    def start(self) -> State:
        """The models' own values; backgrounds flat."""
        states = [target.start() for target in self.targets]
        others = (
            torch.cat([getattr(one, name) for one in states])
            for name in ("log_scale", "background", "b")
        )
        return State(self.model.parameters.start.clone(), *others)

    def states(self, state: State) -> list[State]:
        """Of each experiment."""
        pictures = [len(target.data.pictures) for target in self.targets]
        boxes = [target.data.boxes for target in self.targets]
        scales, b = (one.split(pictures) for one in (state.log_scale, state.b))
        parts = zip(self.model.places, scales, state.background.split(boxes), b)
        return [State(state.inner[place], *own) for place, *own in parts]

    def expected(self, state: State) -> list[Expected]:
        """Of each picture, without derivatives."""
        pairs = zip(self.own, self.states(state))
        return [one for target, own in pairs for one in target.expected(own)]

    def normal(self, state: State) -> JointNormal:
        """The normal equations at a state, restraints included."""
        each = tuple(target.normal(own) for target, own in zip(self.own, self.states(state)))
        loss, pull, curvature = self.prior(state)
        loss += sum(one.loss for one in each)
        chi_sqr, n = (sum(getattr(one, name) for one in each) for name in ("chi_sqr", "n"))
        of = each, self.places, curvature, pull, tuple(self.directions())
        return JointNormal(*of, loss, chi_sqr, n)

    def settled(self, state: State, rounds: int = ROUNDS) -> tuple[State, float]:
        """As of one experiment, of all."""
        targets = zip(self.own, self.states(state))
        pairs = [own.settled(its_state, rounds) for own, its_state in targets]
        background = torch.cat([one.background for one, _ in pairs])
        loss = self.prior(state)[0] + sum(loss for _, loss in pairs)
        return replace(state, background=background), loss

    def prior(self, state: State) -> tuple[float, Tensor, Tensor]:
        """Loss, minus half its gradient [s] and half its curvature [s] of the restraints: of those
        of amplitudes by F^2, which steps go along (see `bent`), in units of F."""
        loss, slope, curvature = self.model.parameters.prior(state.inner)
        if self.amplitudes & set(self.free):
            curvature = torch.where(self._bending, self._by_squares(state, slope), curvature)
        free, size = len(self.free), len(self.shared_names)
        pull, held = state.inner.new_zeros(size), state.inner.new_zeros(size)
        pull[:free], held[:free] = -slope[self.numbers], curvature[self.numbers]
        return float(loss), pull, held

    @cached_property
    def _bending(self) -> Tensor:
        """[p]: which parameters are amplitudes."""
        return torch.tensor([name in self.amplitudes for name in self.model.parameters.names])

    def _by_squares(self, state: State, slope: Tensor) -> Tensor:
        """[p]: half the second derivative by F^2, times (2 F)^2, of restraints w (F - m)^2, whose
        half gradient is `slope`: w m / F. Where F is far below m, w would be far too small."""
        weight = self.model.parameters.prior(state.inner)[2]
        usual = (state.inner > 0) & (slope < weight * state.inner)
        size = torch.where(usual, state.inner, torch.ones_like(state.inner))
        return torch.where(usual, weight - slope / size, weight)

    def directions(self) -> list[Tensor]:
        """[s] each: along which no step is taken."""
        if not self.amplitudes & set(self.free):
            return []
        found, names = [], self.shared_names
        of_images, count = names[len(self.free) :], len(self.picture_names())
        groups = [*self.held, *(of_images[i : i + count] for i in range(0, len(of_images), count))]
        for group in map(set, groups):
            mine = torch.tensor([name in group for name in names], dtype=torch.float64)
            if mine.any():
                found.append(mine / mine.sum())
        return found

    def lowest(self, state: State) -> Tensor:
        """[s]: the lowest that a step may be, before it is bent: along an amplitude to a quarter of
        it, or its lower bound."""
        found = torch.full((len(self.shared_names),), -torch.inf, dtype=torch.float64)
        if not self.amplitudes & set(self.free):
            return found
        old, low = (x[self.numbers] for x in (state.inner, self.model.parameters.limits[0]))
        least = torch.maximum(old / 4, low.clamp(min=0))
        mine = torch.tensor([name in self.amplitudes for name in self.free]) & (old > 0)
        limit = (least.square() - old.square()) / (2 * old)
        found[: len(self.free)] = torch.where(mine, limit.clamp(max=0), found[: len(self.free)])
        return found

    def bent(self, state: State, step: Tensor) -> Tensor:
        """Where amplitudes are free, a step [s] whose parts along them and along scales are steps
        of intensities and of factors, which pixels are linear in: to first order the same. An
        amplitude, and a scale, falls to no less than a quarter in one; the scales' mean stays."""
        if not self.amplitudes & set(self.free):
            return step
        mine = torch.tensor([name in self.amplitudes for name in self.shared_names])
        old = torch.ones_like(step)
        old[: len(self.free)] = state.inner[self.numbers]
        squared = torch.maximum(old.square() + 2 * old * step, old.square() / 16)
        bent = torch.where(mine & (old > 0), squared.sqrt() - old, step)
        of_images = self.shared_names[len(self.free) :] if self.image_scales else ()
        for group in map(set, (*self.held[:1], of_images[: len(self.picture_names())])):
            some = torch.tensor([name in group for name in self.shared_names], dtype=torch.bool)
            if not some.any():
                continue
            factors = (1 + step[some]).clamp(min=0.25).log()
            bent[some] = factors - factors.mean() + step[some].mean()
        return bent

    def moved(self, state: State, step: Tensor, backgrounds: Tensor) -> State:
        """The state after a step [s] of the shared parameters and one of the backgrounds, within
        the bounds."""
        free = len(self.free)
        inner = state.inner.index_add(0, self.numbers, step[:free])
        scales, b = moved_images(state, step[free:], self.kinds)
        boxes = [target.data.boxes for target in self.targets]
        parts = zip(self.targets, state.background.split(boxes), backgrounds.split(boxes))
        backgrounds = torch.cat([target.lit_still(old, new) for target, old, new in parts])
        backgrounds = state.background + backgrounds
        return State(self.model.parameters.clamped(inner), scales, backgrounds, b)

    def degrees_of_freedom(self) -> int:
        """Pixels less all that is refined."""
        boxes = sum(target.data.boxes for target in self.targets)
        return self.n - len(self.shared_names) - self.terms * boxes

    @property
    def n(self) -> int:
        """Pixels."""
        return sum(target.data.n for target in self.targets)

    def picture_names(self) -> list[tuple[int, Picture]]:
        """The number of its experiment, and each picture."""
        pairs = zip(self.numbers_of, self.targets)
        return [(number, one) for number, target in pairs for one in target.data.pictures]
