"""Diffuse scattering of displacements that are correlated over some distance.

The model of liquid-like motions (Caspar et al. 1988, Nature 332, 659; Clarage et al. 1992, Proteins
12, 145), anisotropic as in simtbx: atoms are displaced by gaussians of sigma_i along three axes,
and displacements a distance r apart are correlated by exp(-|r_i/gamma_i|). With

    x = 4 pi^2 sum (sigma_i q_i)^2,

spots are weaker by exp(-x), and of each reflection x exp(-x) of its F^2 a cell, to the first order
in x what the spots lose, lies around it in a halo, the Fourier transform of the correlation,

    8 pi gamma_1 gamma_2 gamma_3 / (1 + 4 pi^2 sum (gamma_i s_i)^2)^2,  s = q - r*.

q, s and the reciprocal lattice point r* are in 1/Angstrom, without 2 pi; the halo's integral over s
is 1. Components are along `mosaic.crystal_frame`. simtbx has the same product (diffuse_util.h) but
no scale (cells over the volume of one), does not weaken the spots, and divides by the number of
lattice points that it looks at.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

from nanobragg_plugin import structure_factors
from nanobragg_plugin.models import Diffuse
from nanobragg_plugin.structure_factors import StructureFactors

#: Half the width of a halo at half its height, over 1/(2 pi gamma): (1 + x^2)^-2 = 1/2.
HALF_WIDTH = math.sqrt(math.sqrt(2) - 1)
#: Directions over which `within` averages.
DIRECTIONS = 4000


def exponent(diffuse: Diffuse, q: Tensor) -> Tensor:
    """x [...] of q [..., 3] in the crystal's frame."""
    return (2 * math.pi * diffuse.sigma * q).square().sum(-1)


def halo(diffuse: Diffuse, s: Tensor) -> Tensor:
    """Angstrom^3, [...]: of s [..., 3] from the lattice point in the crystal's frame."""
    away = (2 * math.pi * diffuse.gamma * s).square().sum(-1)
    return 8 * math.pi * diffuse.gamma.prod() / (1 + away).square()


def within(diffuse: Diffuse, B: Tensor) -> Tensor:
    """The part [] of a halo that lies within the lattice points that are looked at: where each
    index differs by less than stencil + 1/2, of a lattice B [3, 3] in the crystal's frame.

    In u = 2 pi gamma s the halo is 1/(pi^2 (1 + u^2)^2): of a direction, (arctan(u) - u/(1 +
    u^2))/2 lies below u, and the mean over directions (of a Fibonacci sphere) is taken.
    """
    numbers = torch.arange(DIRECTIONS, dtype=B.dtype, device=B.device) + 0.5
    z = 1 - 2 * numbers / DIRECTIONS
    around = numbers * (math.pi * (3 - math.sqrt(5)))
    ring = (1 - z * z).sqrt()
    directions = torch.stack([ring * around.cos(), ring * around.sin(), z], -1)
    hkl = directions / (2 * math.pi * diffuse.gamma) @ torch.linalg.inv(B).T
    u = (diffuse.stencil + 0.5) / hkl.abs().amax(-1)
    return 2 / math.pi * (torch.atan(u) - u / (1 + u * u)).mean()


def intensity(diffuse: Diffuse, B: Tensor, q: Tensor, amplitudes: StructureFactors) -> Tensor:
    """electrons^2 a unit cell, [n], at q [n, 3] of a lattice B [3, 3], both in the crystal's frame.

    The sum over the lattice points whose indices differ by up to `stencil` from the nearest one's:
    F^2 x exp(-x) halo / V, over the part of a halo that is within them, so that no photons are lost
    with its tails.
    """
    hkl = q @ torch.linalg.inv(B).T
    nearest = torch.ceil(hkl.detach() - 0.5)
    around = range(-diffuse.stencil, diffuse.stencil + 1)
    offsets = torch.tensor(list(product(around, repeat=3)), dtype=q.dtype, device=q.device)
    index = (nearest[:, axis, None] + offsets[:, axis] for axis in range(3))
    f_sqr = structure_factors.nearest(amplitudes, *index).square()
    point = nearest @ B.T
    x = _squares(2 * math.pi * diffuse.sigma, point, offsets @ B.T)
    away = _squares(2 * math.pi * diffuse.gamma, point - q, offsets @ B.T)
    halos = 8 * math.pi * diffuse.gamma.prod() / (1 + away).square()
    total = (f_sqr * x * torch.exp(-x) * halos).sum(-1)
    return total * torch.linalg.det(B).abs() / within(diffuse, B)


def _squares(scale: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """|scale (v + w)|^2 [n, m] of v [n, 3] and w [m, 3]."""
    v, w = scale * v, scale * w
    return (v.square().sum(-1)[:, None] + 2 * v @ w.T + w.square().sum(-1)).clamp(min=0)
