"""The loss of models against pixels, and its normal equations, summed image by image.

Expected of a pixel: scale of its image x photons of the crystal + background of its shoebox, a
constant or a plane. Backgrounds are linear and many, but each touches one shoebox: they are
eliminated from the normal equations (Schur's complement) and found again from the others' step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nanobragg_plugin.jacobian import jacobian
from nanobragg_plugin.models import Experiment, SimulationOptions
from nanobragg_plugin.refine import settled
from nanobragg_plugin.refine.backgrounds import IN_ONE, KNOTS, sin_theta
from nanobragg_plugin.refine.data import Data, Picture
from nanobragg_plugin.refine.linear import Linear, linear
from nanobragg_plugin.refine.noise import FLOOR, Noise
from nanobragg_plugin.refine.normal import (
    Expected,
    Normal,
    State,
    kinds_of_images,
    moved_images,
)
from nanobragg_plugin.refine.parametrisations import Model, Models, mean_wavelength
from nanobragg_plugin.simulate import Choice, Simulator

#: Terms of a shoebox's background.
BACKGROUNDS = {"none": 0, "constant": 1, "plane": 3, "image": KNOTS, "global": KNOTS}


@dataclass(frozen=True)
class Target:
    """A model against data. free: names of the parameters that are; image_scales, image_b: whether
    each image has a scale or a B of its own; background: one of BACKGROUNDS; choices: of kernels,
    kept from image to image; progress: called after each image that is simulated."""

    model: Model
    data: Data
    options: SimulationOptions
    noise: Noise = Noise()
    background: str = "plane"
    free: tuple[str, ...] = ()
    image_scales: bool = False
    image_b: bool = False
    choices: dict[str, Choice] = field(default_factory=dict, compare=False)
    progress: Callable[[], object] | None = field(default=None, compare=False)

    @property
    def terms(self) -> int:
        """Of a background."""
        return BACKGROUNDS[self.background]

    @property
    def numbers(self) -> Tensor:
        """Places of the free parameters among all."""
        names = self.model.parameters.names
        unknown = [name for name in self.free if name not in names]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: the model's parameters are {', '.join(names)}")
        return torch.tensor([names.index(name) for name in self.free], dtype=torch.int64)

    @property
    def shared_names(self) -> tuple[str, ...]:
        """Of the parameters that all shoeboxes share: free ones, scales of images, their B."""
        numbers = [one.number for one in self.data.pictures]
        return (*self.free, *(f"{kind}_{number}" for kind in self.kinds for number in numbers))

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each image has of its own: scale, B."""
        return kinds_of_images(self.image_scales, self.image_b)

    def start(self) -> State:
        """The model's own values; backgrounds flat, as the shoeboxes' weaker pixels have it."""
        pictures, boxes = self.data.pictures, self.data.boxes
        background = torch.zeros(boxes, self.terms, dtype=torch.float64)
        if self.terms:
            background[:, 0] = self.data.flat()
        scales = torch.zeros(len(pictures), dtype=torch.float64)
        return State(self.model.parameters.start.clone(), scales, background, scales.clone())

    def expected(self, state: State) -> list[Expected]:
        """Of each picture, without derivatives."""
        near = linear(self._models(state.inner), state.inner.new_zeros(0))
        pictures = enumerate(self.data.pictures)
        return [
            self._expected(state, number, self._at(near, picture)) for number, picture in pictures
        ]

    def _expected(
        self, state: State, number: int, found: tuple[Tensor, Tensor, Tensor]
    ) -> Expected:
        """Of a picture's photons on the common scale, their columns, and of which parameters."""
        picture = self.data.pictures[number]
        photons, slope, which = found
        scale, slopes = self.on_image(state, number)
        bragg = scale * photons
        slope = torch.cat([scale * slope, *(bragg * one for one in slopes.values())])
        first, count = len(self.free), len(self.data.pictures)
        own = [first + at * count + number for at in range(len(self.kinds))]
        which = torch.cat([which, torch.tensor(own, dtype=torch.int64)])
        background = (self.design(picture) * state.background[picture.box]).sum(1)
        return Expected(bragg, slope, background, which)

    def on_image(self, state: State, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        """What a picture's photons are multiplied by [n or 1], and what its logarithm changes by
        [1, n or 1] with each of `kinds`."""
        picture, experiment = self.data.pictures[number], self.model.start[0]
        scale, slopes = state.log_scale[number].exp()[None], {}
        if self.image_scales:
            slopes["scale"] = torch.ones_like(scale)[None]
        if self.image_b or bool(state.b[number] != 0):
            stol_sqr = (sin_theta(picture, experiment) / mean_wavelength(experiment.beam)) ** 2
            scale = scale * torch.exp(-2 * state.b[number] * stol_sqr)
            if self.image_b:
                slopes["B"] = -2 * stol_sqr[None]
        return scale, slopes

    def _at(self, near: Linear, picture: Picture) -> tuple[Tensor, Tensor, Tensor]:
        """Of a picture photons [n], columns [k, n] by free parameters, and which [k] these are."""
        found = self._made(near, picture)
        if self.progress is not None:
            self.progress()
        return found

    def _made(self, near: Linear, picture: Picture) -> tuple[Tensor, Tensor, Tensor]:
        own, which, mix = near.seen_by(picture.exposure)

        def make(free: Tensor) -> Models:
            return lit(own(free), picture)

        if len(which):
            of = make, own.point, picture.exposure, self.options
            images, slopes = jacobian(*of, flat=True, choices=self.choices)
            return torch.cat(images).double(), mix @ torch.cat(slopes, 1).double(), which
        experiment, factors = make(own.point)
        images = self._simulated(experiment, factors, picture)
        picked = [image[mask] for image, mask in zip(images, picture.masks)]
        found = torch.cat(picked).double()
        return found, found.new_zeros(0, len(found)), which

    @torch.no_grad()
    def _simulated(self, experiment: Experiment, factors: Any, picture: Picture) -> list[Tensor]:
        simulator = Simulator(experiment, factors, self.options)
        simulator.choice = self.choices.get("image")
        images = simulator.image(picture.exposure)
        self.choices["image"] = simulator.choice
        return images

    def design(self, picture: Picture) -> Tensor:
        """[n, terms]: what the pixels change by with each term of their shoebox's background."""
        ones = torch.ones_like(picture.counts)[:, None]
        return torch.cat([ones, picture.place.double()], 1)[:, : self.terms]

    def _models(self, inner: Tensor) -> Callable[[Tensor], Models]:
        """The models as a function of the free parameters, inner ones, or of none of them."""
        numbers = self.numbers

        def make(free: Tensor) -> Models:
            whole = inner.index_copy(0, numbers, free) if len(free) else inner
            return self.model.models(self.model.parameters.outer(whole))

        return make

    def _near(self, state: State) -> Linear:
        """The models, by all free parameters."""
        return linear(self._models(state.inner), state.inner[self.numbers])

    def normal(self, state: State) -> Normal:
        """The normal equations at a state, restraints included."""
        shared, boxes, terms = len(self.shared_names), self.data.boxes, self.terms
        zeros = state.inner.new_zeros
        information, gradient = zeros(shared, shared), zeros(shared)
        of_boxes, box_gradient = zeros(boxes, terms, terms), zeros(boxes, terms)
        mixed = zeros(boxes, terms, shared)
        loss = chi_sqr = 0.0
        near = self._near(state)
        for number, picture in enumerate(self.data.pictures):
            found = self._expected(state, number, self._at(near, picture))
            of = self.noise.terms(picture.counts, found.bragg + found.background)
            design, weighted = self.design(picture), of.information * found.columns
            rows = found.which
            information[rows[:, None], rows] += weighted @ found.columns.T
            gradient[rows] += found.columns @ of.score
            settled.add_boxes(of, design, picture.box, of_boxes, box_gradient)
            seen, own = picture.box.unique(return_inverse=True)
            part = zeros(len(seen), terms, len(rows))
            part.index_add_(0, own, design[:, :, None] * weighted.T[:, None, :])
            mixed[seen[:, None], :, rows] += part.transpose(1, 2)
            loss += float(of.loss.sum())
            chi_sqr += float(of.chi_sqr.sum())
        more, slope, curvature = self.model.parameters.prior(state.inner)
        numbers = self.numbers
        free = len(numbers)
        information[range(free), range(free)] += curvature[numbers]
        gradient[:free] -= slope[numbers]
        all_of = information, gradient, of_boxes, box_gradient, mixed
        return Normal(*all_of, loss + float(more), chi_sqr, self.data.n)

    def settled(self, state: State, rounds: int = settled.ROUNDS) -> tuple[State, float]:
        """The state with the backgrounds that fit best, found in some rounds, and its loss,
        restraints included."""
        bragg = [one.bragg for one in self.expected(state)]
        background, loss = settled.settled(self, state.background, bragg, rounds)
        more, _, _ = self.model.parameters.prior(state.inner)
        return replace(state, background=background), loss + float(more)

    def bent(self, state: State, step: Tensor) -> Tensor:
        """The step itself (of a `Joint` the way of amplitudes is not straight)."""
        return step

    def lowest(self, state: State) -> Tensor:
        """[s]: no part of a step has a limit (of a `Joint` those along amplitudes have)."""
        return torch.full((len(self.shared_names),), -torch.inf, dtype=torch.float64)

    def moved(self, state: State, step: Tensor, backgrounds: Tensor) -> State:
        """The state after a step [s] of the shared parameters and one of the backgrounds, within
        the bounds."""
        free = len(self.free)
        inner = state.inner.index_add(0, self.numbers, step[:free])
        scales, b = moved_images(state, step[free:], self.kinds)
        backgrounds = state.background + self.lit_still(state.background, backgrounds)
        return State(self.model.parameters.clamped(inner), scales, backgrounds, b)

    def lit_still(self, background: Tensor, step: Tensor) -> Tensor:
        """A step of the backgrounds, shortened in those boxes, alone, where some pixel would lose
        more than nine tenths of it: where models are far off the counts, steps would lead far below
        0, and Marquardt's damping would shorten those of all boxes."""
        if self.terms == 0 or self.background in IN_ONE:
            return step
        before, after = (self.data.least(one) for one in (background, background + step))
        bounded = (before > FLOOR) & (after < 0.1 * before)
        # concave in the step's length: no less than on the line between its ends
        part = 0.9 * before / (before - after).clamp(min=FLOOR)
        return step * torch.where(bounded, part, torch.ones_like(part))[:, None]

    def degrees_of_freedom(self) -> int:
        """Pixels less all that is refined."""
        return self.data.n - len(self.shared_names) - self.terms * self.data.boxes


def lit(models: Models, picture: Picture) -> Models:
    """The models of a picture: its pixels, its photons."""
    experiment, factors = models
    masks = zip(experiment.panels, picture.masks)
    panels = tuple(replace(panel, mask=mask) for panel, mask in masks)
    beam = replace(experiment.beam, fluence=experiment.beam.fluence * picture.fluence)
    return replace(experiment, panels=panels, beam=beam), factors


def scaled(target: Target, state: State) -> float:
    """The factor on the crystal's photons that fits the counts above the background best, by least
    squares: where a scale should start."""
    above = below = 0.0
    for picture, found in zip(target.data.pictures, target.expected(state)):
        weight = 1 / picture.counts.clamp(min=1)
        above += float((weight * found.bragg * (picture.counts - found.background)).sum())
        below += float((weight * found.bragg**2).sum())
    return above / below if below > 0 else 0.0
