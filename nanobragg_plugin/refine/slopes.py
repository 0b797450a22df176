"""The loss of models against pixels and its gradient, by backward passes: whose cost does not grow
with the number of parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from nanobragg_plugin.models import tensors_of
from nanobragg_plugin.refine.joint import Joint
from nanobragg_plugin.refine.linear import with_tensors
from nanobragg_plugin.refine.target import State, Target, lit
from nanobragg_plugin.simulate import simulate


def loss_and_slopes(target: Joint, state: State) -> tuple[float, float, Tensor, Tensor]:
    """Loss, chi_sqr, and minus half the loss's gradient by the shared parameters [s] and by the
    backgrounds [boxes, terms]; restraints included."""
    loss, gradient, _ = target.prior(state)
    chi_sqr, boxes = 0.0, []
    for own, its_state, place in zip(target.own, target.states(state), target.places):
        its_loss, its_chi_sqr, slope, of_boxes = _of_target(own, its_state)
        loss, chi_sqr = loss + its_loss, chi_sqr + its_chi_sqr
        gradient.index_add_(0, place, slope)
        boxes.append(of_boxes)
    return loss, chi_sqr, gradient, torch.cat(boxes)


def _of_target(target: Target, state: State) -> tuple[float, float, Tensor, Tensor]:
    numbers = target.numbers
    free = state.inner[numbers].requires_grad_()
    whole = state.inner.index_copy(0, numbers, free)
    models = target.model.models(target.model.parameters.outer(whole))
    made = list(tensors_of(*models))
    # of each image the gradient reaches these; from here to the parameters there is one way
    leaves = [one.detach().requires_grad_(one.requires_grad) for one in made]
    detached = with_tensors(models, iter(leaves))
    of_boxes = torch.zeros_like(state.background)
    of_images = {kind: torch.zeros_like(state.log_scale) for kind in target.kinds}
    loss = chi_sqr = 0.0
    for number, picture in enumerate(target.data.pictures):
        experiment, factors = lit(detached, picture)
        images = simulate(experiment, picture.exposure, factors, target.options)
        found = torch.cat([image[mask] for image, mask in zip(images, picture.masks)])
        scale, slopes = target.on_image(state, number)
        bragg = scale * found.detach().double()
        design = target.design(picture)
        background = (design * state.background[picture.box]).sum(1)
        of = target.noise.terms(picture.counts, bragg + background)
        for kind, along in slopes.items():
            of_images[kind][number] = (of.score * bragg * along).sum()
        of_boxes.index_add_(0, picture.box, of.score[:, None] * design)
        loss, chi_sqr = loss + float(of.loss.sum()), chi_sqr + float(of.chi_sqr.sum())
        if found.requires_grad:
            found.backward((scale * of.score).to(found))
    pairs = [(one, leaf.grad) for one, leaf in zip(made, leaves) if leaf.grad is not None]
    slope = torch.zeros_like(free)
    if pairs:
        outputs, along = zip(*pairs)
        (found_slope,) = torch.autograd.grad(outputs, free, along, allow_unused=True)
        slope = slope if found_slope is None else found_slope
    slope = torch.cat([slope, *of_images.values()])
    return loss, chi_sqr, slope.detach(), of_boxes
