"""The powder rings of hexagonal ice, from its structure."""

from __future__ import annotations

import math

import numpy as np
from cctbx import crystal, xray
from cctbx.array_family import flex

#: Ice Ih at 100 K: P 63/m m c, a and c after Roettger et al. (1994), Acta Cryst. B50, 644, oxygen
#: and the half occupied hydrogens after Peterson & Levy (1957), Acta Cryst. 10, 70.
CELL, GROUP, MOLECULES = (4.497, 4.497, 7.322, 90, 90, 120), "P 63/m m c", 4
ATOMS = (
    ("O", (1 / 3, 2 / 3, 0.0622), 1.0),
    ("H", (1 / 3, 2 / 3, 0.199), 0.5),
    ("H", (0.454, 0.908, 0.018), 0.5),
)
#: Square Angstrom; the smallest d, Angstrom; points of the table in a ring's width.
B_ISO, D_MIN, POINTS = 1.5, 0.8, 10


def structure() -> xray.structure:
    """The atoms."""
    symmetry = crystal.symmetry(unit_cell=CELL, space_group_symbol=GROUP)
    scatterers = [
        xray.scatterer(kind, site=site, u=B_ISO / (8 * math.pi**2), occupancy=share)
        for kind, site, share in ATOMS
    ]
    return xray.structure(crystal_symmetry=symmetry, scatterers=flex.xray_scatterer(scatterers))


def table(fwhm: float) -> tuple[np.ndarray, np.ndarray]:
    """sin(theta)/lambda, 1/Angstrom, and F of a molecule, electrons, whose square is that of a
    powder:

        F^2(q) = sum over all hkl |F_hkl|^2 p(q - 1/d) d^2 / (4 pi V Z),

    the mean over all orientations of lattice points spread along q; p: a Gaussian of full width
    at half maximum fwhm, 1/Angstrom, and integral 1.
    """
    atoms = structure()
    amplitudes = abs(atoms.structure_factors(d_min=D_MIN, anomalous_flag=False).f_calc())
    d = amplitudes.d_spacings().data().as_numpy_array()
    strength = amplitudes.data().as_numpy_array() ** 2
    strength *= amplitudes.multiplicities().data().as_numpy_array()
    strength *= d**2 / (4 * math.pi * atoms.unit_cell().volume() * MOLECULES)
    sigma = fwhm / math.sqrt(8 * math.log(2))
    q = np.arange(0, 1 / D_MIN, fwhm / POINTS)
    total = np.zeros_like(q)
    for one, of in zip(strength, d):
        near = slice(*np.searchsorted(q, (1 / of - 8 * sigma, 1 / of + 8 * sigma)))
        away = (q[near] - 1 / of) / sigma
        total[near] += one * np.exp(-(away**2) / 2) / (sigma * math.sqrt(2 * math.pi))
    return q / 2, np.sqrt(total)
