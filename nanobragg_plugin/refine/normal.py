"""What a refinement moves in, and the normal equations there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanobragg_plugin.refine.arrow import Arrow

#: Numbers of what boxes and parameters have together that are solved for at once.
AT_ONCE = 1_000_000


@dataclass(frozen=True)
class State:
    """inner [p]: of all parameters of the model, free or not; log_scale [pictures]; background
    [boxes, terms], photons: in the middle, and by how much it changes along slow and fast over half
    the box; b [pictures], square Angstrom: of a factor exp(-2 b (sin(theta)/lambda)^2) on the
    crystal's photons."""

    inner: Tensor
    log_scale: Tensor
    background: Tensor
    b: Tensor


@dataclass(frozen=True)
class Normal:
    """At a state: information, half the expected second derivatives of the loss, and gradient,
    minus half its gradient, of the shared parameters [s] (free ones, then scales and B of images),
    of the backgrounds [boxes, terms], and of both: mixed [boxes, terms, s]; loss; chi_sqr and the
    number of pixels that it is of."""

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
        information, gradient = self.information.clone(), self.gradient.clone()
        size = max(1, AT_ONCE // max(1, self.mixed[0].numel()))
        of = self._regular(), self.mixed, self.box_gradient
        for square, mixed, slope in zip(*(one.split(size) for one in of)):
            solved = torch.linalg.solve(square, mixed)  # [boxes, terms, s]
            information -= mixed.flatten(0, 1).T @ solved.flatten(0, 1)
            gradient -= solved.flatten(0, 1).T @ slope.flatten()
        return (information + information.T) / 2, gradient

    def arrow(self) -> tuple[Arrow, Tensor]:
        """As `reduced`, the information as an arrow without blocks."""
        information, gradient = self.reduced()
        return Arrow.whole(information), gradient

    def backgrounds(self, step: Tensor) -> Tensor:
        """The step of the backgrounds [boxes, terms] that goes with one [s] of the others."""
        if self.of_boxes.shape[1] == 0:
            return self.box_gradient
        left = self.box_gradient - self.mixed @ step
        return torch.linalg.solve(self._regular(), left[..., None])[..., 0]

    def taking(self, boxes: Tensor, steps: Tensor) -> Normal:
        """Where the backgrounds of some boxes, bool [boxes], take given steps [boxes, terms],
        whatever the shared parameters do."""
        given = torch.where(boxes[:, None], steps, 0.0)
        size = self.of_boxes.diagonal(dim1=-2, dim2=-1).amax(-1).clamp(min=1e-12)
        alone = torch.diag_embed(size[:, None].expand_as(steps))
        return replace(
            self,
            gradient=self.gradient - torch.einsum("bts,bt->s", self.mixed, given),
            of_boxes=torch.where(boxes[:, None, None], alone, self.of_boxes),
            box_gradient=torch.where(boxes[:, None], size[:, None] * given, self.box_gradient),
            mixed=torch.where(boxes[:, None, None], 0.0, self.mixed),
        )

    def _regular(self) -> Tensor:
        """Of the boxes, so that one without pixels, or of a single row, has an inverse."""
        size = self.of_boxes.diagonal(dim1=-2, dim2=-1).amax(-1).clamp(min=1e-12)
        eye = torch.eye(self.of_boxes.shape[1], dtype=size.dtype)
        return self.of_boxes + 1e-9 * size[:, None, None] * eye


@dataclass(frozen=True)
class Expected:
    """Photons expected of a picture's pixels [n]: the crystal's, with their derivatives [k, n] by
    those shared parameters on which they depend, and the background's; which [k]: the numbers of
    these parameters."""

    bragg: Tensor
    columns: Tensor
    background: Tensor
    which: Tensor


def kinds_of_images(scales: bool, b: bool) -> tuple[str, ...]:
    """What each image has of its own."""
    return *(("scale",) if scales else ()), *(("B",) if b else ())


def moved_images(state: State, step: Tensor, kinds: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Logarithms of scales and B of images [pictures] after a step [kinds x pictures]."""
    steps = dict(zip(kinds, step.reshape(-1, len(state.b))))
    return state.log_scale + steps.get("scale", 0.0), state.b + steps.get("B", 0.0)
