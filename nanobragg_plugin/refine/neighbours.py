"""Reflections that light the pixels of shoeboxes, whether or not these are theirs.

Where spots overlap a shoebox has photons of its neighbours, too, which a table of reflections may
not list. Each reflection's photons in each pixel are F/2 times the pixel's slope by its F (an image
is linear in F^2), and slopes by all amplitudes are those by eight combinations of parities (see
`amplitudes`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd import forward_ad

from nanobragg_plugin.by_reflection import covering, reach_of
from nanobragg_plugin.jacobian import jacobian
from nanobragg_plugin.models import Experiment
from nanobragg_plugin.refine.amplitudes import fractional, nearest_of_parity, of_parity
from nanobragg_plugin.refine.blurs import totals
from nanobragg_plugin.refine.data import Picture
from nanobragg_plugin.refine.parametrisations import Models
from nanobragg_plugin.refine.target import State, Target, lit
from nanobragg_plugin.structure_factors import StructureFactors


@dataclass(frozen=True)
class Lit:
    """hkl [n, 3], each once; chi_sqr [n]: by how much chi^2 would be larger without its photons:
    the sum of their squares over the pixels' variances."""

    hkl: Tensor
    chi_sqr: Tensor


@torch.no_grad()
def lit_by(target: Target, state: State) -> Lit:
    """Of a target at a state (the scale of all its photons is that of the counts) all reflections
    that have photons in its pixels."""
    experiment, factors = target.model.models(target.model.parameters.outer(state.inner))
    if factors.default_F:
        factors = covering(factors, reach_of(experiment))
    scale = max(totals(replace(target, free=()), state), 0.0)
    total = torch.zeros(factors.Fhkl.numel(), dtype=torch.float64)
    for picture in target.data.pictures:
        counts = picture.counts.double().clamp(min=1)
        information = target.noise.terms(counts, counts).information
        for photons, place in _by_parity((experiment, factors), picture, target):
            total.index_add_(0, place, (scale * photons) ** 2 * information)
    total[0] = 0.0
    seen = (total > 0).nonzero()[:, 0]
    places = torch.stack(torch.unravel_index(seen, factors.Fhkl.shape), 1)
    return Lit(places - 1 + torch.tensor(factors.hkl_min), total[seen])


def _by_parity(models: Models, picture: Picture, target: Target) -> list[tuple[Tensor, Tensor]]:
    """Of each combination of parities photons [n] of its reflection nearest to each pixel of a
    picture, and where that is [n] in the flattened table of amplitudes; photons beyond the table,
    whose amplitude is of many reflections, are left out."""
    experiment, factors = lit(models, picture)
    inner = torch.zeros_like(factors.Fhkl, dtype=torch.bool)
    inner[1:-1, 1:-1, 1:-1] = True
    halves = [factors.Fhkl / 2 * mask for mask in of_parity(factors, inner)]

    def make(along: Tensor) -> Models:
        tangent = forward_ad.unpack_dual(along).tangent
        parts = zip([0.0] * len(halves) if tangent is None else tangent.tolist(), halves)
        changes = [one * half for one, half in parts if one]
        if not changes:
            return experiment, factors
        table = forward_ad.make_dual(factors.Fhkl, sum(changes))
        return experiment, replace(factors, Fhkl=table)

    at = torch.zeros(len(halves), dtype=torch.float64)
    _, slopes = jacobian(make, at, picture.exposure, target.options, flat=True)
    return list(zip(torch.cat(slopes, 1).double(), _places(experiment, factors, picture)))


def _places(experiment: Experiment, factors: StructureFactors, picture: Picture) -> Tensor:
    """[8, n]: of each parity, where its reflection nearest to each pixel is in the flattened table
    (0, a corner, which is of no reflection: beyond)."""
    h = fractional(experiment, picture.exposure, picture.masks)
    places = nearest_of_parity(h) - torch.tensor(factors.hkl_min) + 1
    sizes = torch.tensor(factors.Fhkl.shape)
    inside = ((places > 0) & (places < sizes - 1)).all(-1)
    flat = (places[..., 0] * sizes[1] + places[..., 1]) * sizes[2] + places[..., 2]
    return torch.where(inside, flat, torch.zeros_like(flat))
