"""Backgrounds that fit the counts best beside photons of the crystal that are given.

Those of a shoebox touch it alone and cost no simulation. Steps of the shared parameters assume that
backgrounds follow; where these are a fraction of a photon, one step of theirs is not enough for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nanobragg_plugin.refine.noise import Terms

if TYPE_CHECKING:
    from nanobragg_plugin.refine.target import Target

#: The most steps, and the promised fall of a box's loss at which there are no more.
ROUNDS, ENOUGH = 12, 1e-4
#: Damping of the first, and by what it changes.
DAMPING, FACTOR = 1e-3, 10.0


def settled(
    target: Target, background: Tensor, bragg: list[Tensor], rounds: int = ROUNDS
) -> tuple[Tensor, float]:
    """Backgrounds [boxes, terms] from others of these down, by Levenberg and Marquardt's way in
    each box by itself, beside the crystal's photons [n] of each picture; and the loss of all."""
    loss, information, gradient = _sums(target, background, bragg)
    if target.terms == 0:
        return background, float(loss.sum())
    damping = torch.full_like(loss, DAMPING)
    for _ in range(rounds):
        size = information.diagonal(dim1=1, dim2=2)
        more = damping[:, None] * size + 1e-9 * size.amax(1)[:, None] + 1e-12
        damped = information + torch.diag_embed(more)
        step = torch.linalg.solve(damped, gradient[..., None])[..., 0]
        step = target.lit_still(background, step)
        if not bool(((step * gradient).sum(1) > ENOUGH).any()):
            break
        tried = background + step
        found = _sums(target, tried, bragg)
        better = found[0] < loss
        damping = torch.where(better, damping / FACTOR, damping * FACTOR)
        background = torch.where(better[:, None], tried, background)
        loss = torch.where(better, found[0], loss)
        information = torch.where(better[:, None, None], found[1], information)
        gradient = torch.where(better[:, None], found[2], gradient)
    return background, float(loss.sum())


def _sums(target: Target, background: Tensor, bragg: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Of each box loss [boxes], information [boxes, terms, terms] and gradient [boxes, terms]."""
    boxes, terms = background.shape
    loss, gradient = background.new_zeros(boxes), background.new_zeros(boxes, terms)
    information = background.new_zeros(boxes, terms, terms)
    for picture, photons in zip(target.data.pictures, bragg):
        design = target.design(picture)
        expected = photons + (design * background[picture.box]).sum(1)
        of = target.noise.terms(picture.counts, expected)
        loss.index_add_(0, picture.box, of.loss)
        add_boxes(of, design, picture.box, information, gradient)
    return loss, information, gradient


def add_boxes(
    of: Terms, design: Tensor, box: Tensor, information: Tensor, gradient: Tensor
) -> None:
    """Add what pixels [n] of boxes [n] say of these boxes' backgrounds to information
    [boxes, terms, terms] and gradient [boxes, terms]; design [n, terms]."""
    squares = design[:, :, None] * (of.information[:, None] * design)[:, None, :]
    information.index_add_(0, box, squares)
    gradient.index_add_(0, box, of.score[:, None] * design)
