"""The powder rings of ice: where the field finds them, as strong as the structure makes them."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("cctbx")

from nanobragg_plugin.adapters import ice  # noqa: E402

#: d, Angstrom, of the rings of hexagonal ice as macromolecular crystallographers know them.
RINGS = (3.90, 3.67, 3.44, 2.67, 2.25, 2.07, 1.92, 1.88)


def test_where_the_rings_are() -> None:
    """Within 0.3 %: cells of different temperatures."""
    stol, f = ice.table(0.002)
    inner = (f[1:-1] > f[:-2]) & (f[1:-1] > f[2:]) & (f[1:-1] > 0.2 * f.max())
    found = 1 / (2 * stol[1:-1][inner])
    for ring in RINGS:
        assert np.abs(found / ring - 1).min() < 3e-3


@pytest.mark.parametrize(
    "hkl, multiplicity, d, oxygen",
    (((1, 0, 0), 6, 3.894, 6.6), ((0, 0, 2), 2, 3.661, 6.5), ((1, 0, 1), 12, 3.438, 6.3)),
)
def test_how_strong_they_are(hkl, multiplicity, d, oxygen) -> None:
    """4 pi q^2 F^2 dq, added up over a ring, is |F|^2/(V Z), F by hand of the four oxygen atoms, f
    of International Tables C 6.1.1.1, times what the hydrogens add: 2 of 10 electrons, at most
    (10/8)^2. Measured 1.43 and 1.44 times oxygen's."""
    stol, f = ice.table(0.002)
    q = 2 * stol
    a, _, c = ice.CELL[:3]
    volume = a * a * c * math.sqrt(3) / 2
    z = ice.ATOMS[0][1][2]
    one, two = (1 / 3, 2 / 3), (2 / 3, 1 / 3)
    places = [(*one, z), (*two, z + 0.5), (*two, -z), (*one, 0.5 - z)]
    phases = [np.exp(2j * math.pi * np.dot(hkl, place)) for place in places]
    amplitude = oxygen * math.exp(-ice.B_ISO / (4 * d * d)) * abs(sum(phases))
    near = np.abs(q - 1 / d) < 0.006
    found = float((4 * math.pi * q[near] ** 2 * f[near] ** 2).sum() * (q[1] - q[0]))
    ratio = found / (multiplicity * amplitude**2 / (volume * ice.MOLECULES))
    assert 1.35 < ratio < (10 / 8) ** 2


def test_molecules_lie_as_they_do_in_ice() -> None:
    """Four oxygen neighbours within 2.9 Angstrom, at 2.75 along c; an O-H bond of 1.0."""
    atoms = ice.structure()
    oxygen = atoms.select(atoms.element_selection("O"))
    assert list(oxygen.pair_asu_table(distance_cutoff=2.9).pair_counts()) == [4]
    c, z = ice.CELL[2], ice.ATOMS[0][1][2]
    assert c * (0.5 - 2 * z) == pytest.approx(2.75, abs=0.01)
    assert c * (ice.ATOMS[1][1][2] - z) == pytest.approx(1.0, abs=0.02)


def test_a_wider_ring_has_as_many_photons() -> None:
    totals = []
    for fwhm in (0.001, 0.01):
        stol, f = ice.table(fwhm)
        q = 2 * stol
        near = q < 0.32
        totals.append(float((q[near] ** 2 * f[near] ** 2).sum() * (q[1] - q[0])))
    assert totals[1] == pytest.approx(totals[0], rel=0.02)
