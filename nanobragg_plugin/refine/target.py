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
from nanobragg_plugin.refine.backgrounds import IN_ONE, KNOTS
from nanobragg_plugin.refine.data import Data, Picture
from nanobragg_plugin.refine.linear import Linear, linear
from nanobragg_plugin.refine.noise import FLOOR, Noise
from nanobragg_plugin.refine.parametrisations import Model, Models
from nanobragg_plugin.simulate import Choice, Simulator

#: Terms of a shoebox's background.
BACKGROUNDS = {"none": 0, "constant": 1, "plane": 3, "image": KNOTS, "global": KNOTS}


@dataclass(frozen=True)
class State:
    """inner [p]: of all parameters of the model, free or not; log_scale [pictures]; background
    [boxes, terms], photons: in the middle, and by how much it changes along slow and fast over half
    the box."""

    inner: Tensor
    log_scale: Tensor
    background: Tensor


@dataclass(frozen=True)
class Normal:
    """At a state: information, half the expected second derivatives of the loss, and gradient,
    minus half its gradient, of the shared parameters [s] (free ones, then scales of images), of the
    backgrounds [boxes, terms], and of both: mixed [boxes, terms, s]; loss; chi_sqr and the number
    of pixels that it is of."""

    information: Tensor
    gradient: Tensor
    of_boxes: Tensor
    box_gradient: Tensor
    mixed: Tensor
    loss: float
    chi_sqr: float
    n: int

    def damped(self, damping: float) -> Normal:
        """Levenberg and Marquardt's: with larger diagonals."""
        grown = 1 + damping
        diagonal = torch.diag(self.information.diagonal())
        of_boxes = torch.diag_embed(self.of_boxes.diagonal(dim1=-2, dim2=-1))
        return replace(
            self,
            information=self.information + (grown - 1) * diagonal,
            of_boxes=self.of_boxes + (grown - 1) * of_boxes,
        )

    def reduced(self) -> tuple[Tensor, Tensor]:
        """Information [s, s] and gradient [s] of the shared parameters where backgrounds follow."""
        if self.of_boxes.shape[1] == 0:
            return self.information, self.gradient
        solved = torch.linalg.solve(self._regular(), self.mixed)  # [boxes, terms, s]
        information = self.information - torch.einsum("bts,btr->sr", self.mixed, solved)
        gradient = self.gradient - torch.einsum("bts,bt->s", solved, self.box_gradient)
        return (information + information.T) / 2, gradient

    def backgrounds(self, step: Tensor) -> Tensor:
        """The step of the backgrounds [boxes, terms] that goes with one [s] of the others."""
        if self.of_boxes.shape[1] == 0:
            return self.box_gradient
        left = self.box_gradient - self.mixed @ step
        return torch.linalg.solve(self._regular(), left[..., None])[..., 0]

    def _regular(self) -> Tensor:
        """Of the boxes, so that one without pixels, or of a single row, has an inverse."""
        size = self.of_boxes.diagonal(dim1=-2, dim2=-1).amax(-1).clamp(min=1e-12)
        eye = torch.eye(self.of_boxes.shape[1], dtype=size.dtype)
        return self.of_boxes + 1e-9 * size[:, None, None] * eye


@dataclass(frozen=True)
class Expected:
    """Photons expected of a picture's pixels [n]: the crystal's, with their derivatives [s, n] by
    the shared parameters, and the background's."""

    bragg: Tensor
    columns: Tensor
    background: Tensor


@dataclass(frozen=True)
class Target:
    """A model against data. free: names of the parameters that are; image_scales: whether each
    image has a scale of its own; background: one of BACKGROUNDS; choices: of kernels, kept from
    image to image."""

    model: Model
    data: Data
    options: SimulationOptions
    noise: Noise = Noise()
    background: str = "plane"
    free: tuple[str, ...] = ()
    image_scales: bool = False
    choices: dict[str, Choice] = field(default_factory=dict, compare=False)

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
        """Of the parameters that all shoeboxes share: free ones, and scales of images."""
        scales = [f"scale_{one.number}" for one in self.data.pictures] if self.image_scales else []
        return (*self.free, *scales)

    def start(self) -> State:
        """The model's own values; backgrounds flat, as the shoeboxes' weaker pixels have it."""
        pictures, boxes = self.data.pictures, self.data.boxes
        background = torch.zeros(boxes, self.terms, dtype=torch.float64)
        if self.terms:
            counts = torch.cat([one.counts for one in pictures])
            background[:, 0] = _flat(counts, torch.cat([one.box for one in pictures]), boxes)
        scales = torch.zeros(len(pictures), dtype=torch.float64)
        return State(self.model.parameters.start.clone(), scales, background)

    def expected(self, state: State) -> list[Expected]:
        """Of each picture, without derivatives."""
        near = linear(self._models(state.inner), state.inner.new_zeros(0))
        return [self._expected(state, number, near) for number in range(len(self.data.pictures))]

    def _expected(self, state: State, number: int, near: Linear) -> Expected:
        picture = self.data.pictures[number]

        def make(free: Tensor) -> Models:
            return lit(near(free), picture)

        if len(near.point):
            of = make, near.point, picture.exposure, self.options
            images, slopes = jacobian(*of, flat=True, choices=self.choices)
            found, slope = torch.cat(images).double(), torch.cat(slopes, 1).double()
        else:
            experiment, factors = make(near.point)
            images = self._simulated(experiment, factors, picture)
            picked = [image[mask] for image, mask in zip(images, picture.masks)]
            found = torch.cat(picked).double()
            slope = found.new_zeros(0, len(found))
        scale = state.log_scale[number].exp()
        bragg, slope = scale * found, scale * slope
        if self.image_scales:
            own = bragg.new_zeros(len(self.data.pictures), len(bragg))
            own[number] = bragg
            slope = torch.cat([slope, own])
        background = (self.design(picture) * state.background[picture.box]).sum(1)
        return Expected(bragg, slope, background)

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

    def normal(self, state: State) -> Normal:
        """The normal equations at a state, restraints included."""
        shared, boxes, terms = len(self.shared_names), self.data.boxes, self.terms
        zeros = state.inner.new_zeros
        information, gradient = zeros(shared, shared), zeros(shared)
        of_boxes, box_gradient = zeros(boxes, terms, terms), zeros(boxes, terms)
        mixed = zeros(boxes, terms, shared)
        loss = chi_sqr = 0.0
        near = linear(self._models(state.inner), state.inner[self.numbers])
        for number, picture in enumerate(self.data.pictures):
            found = self._expected(state, number, near)
            of = self.noise.terms(picture.counts, found.bragg + found.background)
            design, weighted = self.design(picture), of.information * found.columns
            information += weighted @ found.columns.T
            gradient += found.columns @ of.score
            squares = design[:, :, None] * (of.information[:, None] * design)[:, None, :]
            of_boxes.index_add_(0, picture.box, squares)
            box_gradient.index_add_(0, picture.box, of.score[:, None] * design)
            mixed.index_add_(0, picture.box, design[:, :, None] * weighted.T[:, None, :])
            loss += float(of.loss.sum())
            chi_sqr += float(of.chi_sqr.sum())
        more, slope, curvature = self.model.parameters.prior(state.inner)
        numbers = self.numbers
        free = len(numbers)
        information[range(free), range(free)] += curvature[numbers]
        gradient[:free] -= slope[numbers]
        all_of = information, gradient, of_boxes, box_gradient, mixed
        return Normal(*all_of, loss + float(more), chi_sqr, self.data.n)

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
        scales = state.log_scale + step[free:] if self.image_scales else state.log_scale
        backgrounds = state.background + self.lit_still(state.background, backgrounds)
        return State(self.model.parameters.clamped(inner), scales, backgrounds)

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


def _flat(counts: Tensor, box: Tensor, boxes: int, rounds: int = 5) -> Tensor:
    """[boxes]: the mean of the pixels that do not stand out, found in some rounds."""
    kept = torch.ones_like(counts, dtype=torch.bool)
    mean = counts.new_zeros(boxes)
    order = torch.argsort(counts)
    order = order[torch.argsort(box[order], stable=True)]
    sizes = torch.bincount(box, minlength=boxes)
    firsts = torch.cumsum(sizes, 0) - sizes
    median = counts[order][(firsts + sizes // 2).clamp(max=len(counts) - 1)]
    limit = median + 3 * (median + 1).sqrt()
    for _ in range(rounds):
        kept = counts <= limit[box]
        total = counts.new_zeros(boxes).index_add_(0, box[kept], counts[kept])
        mean = total / torch.bincount(box[kept], minlength=boxes).clamp(min=1)
        limit = mean + 3 * mean.clamp(min=0.1).sqrt() + 1
    return mean


def scaled(target: Target, state: State) -> float:
    """The factor on the crystal's photons that fits the counts above the background best, by least
    squares: where a scale should start."""
    above = below = 0.0
    for picture, found in zip(target.data.pictures, target.expected(state)):
        weight = 1 / picture.counts.clamp(min=1)
        above += float((weight * found.bragg * (picture.counts - found.background)).sum())
        below += float((weight * found.bragg**2).sum())
    return above / below if below > 0 else 0.0
