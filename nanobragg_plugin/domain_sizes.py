"""Domains of several sizes, as crystals whose photons add up.

A Crystal has one size of its domains. Of a crystal in which the size varies, each of some sizes is
a crystal of its own, with its share of the volume.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nanobragg_plugin.models import Crystal


def gauss_hermite(count: int) -> tuple[Tensor, Tensor]:
    """Nodes [count] and weights [count], which sum to 1, of the quadrature of the standard normal
    distribution, float64: eigenvalues of the Jacobi matrix of its orthogonal polynomials, and the
    squares of the first components of its eigenvectors (Golub & Welsch 1969, Math. Comp. 23, 221).
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    beside = torch.arange(1, count, dtype=torch.float64).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return nodes, vectors[0].square()


def crystals_of_sizes(crystal: Crystal, spread: Tensor, count: int = 5) -> tuple[Crystal, ...]:
    """`count` crystals in place of one, whose domains' edges have a log-normal distribution by
    volume: ln(size) has sigma `spread` [], and the mean size by volume is the crystal's.

    All are of the same shape, orientations and cells. The illuminated volume stays, and with it
    the integrated intensity of every reflection, proportional to spot_scale Na Nb Nc: sizes of
    share w of the volume and f times the edge are spot_scale w/f^3 domains. Integrals over the
    distribution of polynomials of ln(size) up to degree 2 count - 1 are exact. Differentiable.
    """
    nodes, shares = (x.to(crystal.Ncells_abc) for x in gauss_hermite(count))
    factors = torch.exp(spread * nodes - spread * spread / 2)
    return tuple(
        replace(
            crystal,
            Ncells_abc=crystal.Ncells_abc * factor,
            spot_scale=crystal.spot_scale * share / factor**3,
        )
        for factor, share in zip(factors, shares)
    )
