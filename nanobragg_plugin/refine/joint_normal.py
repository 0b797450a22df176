"""Normal equations of several experiments, whose backgrounds and own parameters are eliminated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanobragg_plugin.refine.arrow import Arrow
from nanobragg_plugin.refine.normal import Normal

#: Information about the mean of what amplitudes could take up altogether: it stays as it is.
HELD = 1e8


@dataclass(frozen=True)
class JointNormal:
    """each: the experiments' normal equations; places: of each one's shared parameters, where they
    are among all; restraints [s] and pull [s]: information and gradient of what is known besides
    the pixels; held: of directions [s] along which there is no step; loss, chi_sqr and n of all."""

    each: tuple[Normal, ...]
    places: tuple[Tensor, ...]
    restraints: Tensor
    pull: Tensor
    held: tuple[Tensor, ...]
    loss: float
    chi_sqr: float
    n: int

    @property
    def gradient(self) -> Tensor:
        """[s], minus half the loss's."""
        total = self.pull.clone()
        for one, place in zip(self.each, self.places):
            total.index_add_(0, place, one.gradient)
        return self._along(total)

    @property
    def box_gradient(self) -> Tensor:
        """[boxes, terms] of all experiments."""
        return torch.cat([one.box_gradient for one in self.each])

    def damped(self, damping: float) -> JointNormal:
        """Levenberg and Marquardt's: with larger diagonals."""
        each = tuple(one.damped(damping) for one in self.each)
        return replace(self, each=each, restraints=(1 + damping) * self.restraints)

    def arrow(self) -> tuple[Arrow, Tensor]:
        """Information, a block of each experiment's own parameters, and gradient [s] where
        backgrounds follow."""
        gradient, parts = self.pull.clone(), []
        for one, place in zip(self.each, self.places):
            own, slope = one.reduced()
            parts.append((own, place))
            gradient.index_add_(0, place, slope)
        held = [HELD**0.5 * direction for direction in self.held]
        return Arrow.of(parts, self.restraints, held), self._along(gradient)

    def reduced(self) -> tuple[Tensor, Tensor]:
        """Information [s, s] and gradient [s] where backgrounds follow."""
        arrow, gradient = self.arrow()
        return arrow.dense(), gradient

    def _along(self, gradient: Tensor) -> Tensor:
        """A gradient [s] without what leads along what is held."""
        for direction in self.held:
            gradient = gradient - direction * (direction @ gradient) / (direction @ direction)
        return gradient

    def taking(self, boxes: Tensor, steps: Tensor) -> JointNormal:
        """As of one experiment, of the boxes of all."""
        counts = [len(one.box_gradient) for one in self.each]
        parts = zip(self.each, boxes.split(counts), steps.split(counts))
        return replace(self, each=tuple(one.taking(*of) for one, *of in parts))

    def backgrounds(self, step: Tensor) -> Tensor:
        """The step of all backgrounds [boxes, terms] that goes with one [s] of the others."""
        pairs = zip(self.each, self.places)
        return torch.cat([one.backgrounds(step[place]) for one, place in pairs])
