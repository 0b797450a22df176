# ruff: noqa: E402
"""Several crystals in the same images: their photons add up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim

from nanobragg_plugin.format.FormatNXmxNanoBragg import FormatNXmxNanoBragg

EXACT = (*sim.QUICK, "noise.poisson=False", "background.level=0", "compute.precision=double")
#: Of a sum of images in float32 from their sum: measured 9e-8 of the maximum.
TOLERANCE = 2e-7


def images(name: str, *args: str) -> np.ndarray:
    sim.simulate(*args, *EXACT, f"output.prefix={name}")
    return sim.pixels(f"{name}.nxs").astype(float)


@pytest.fixture
def three(tmp_cwd: Path) -> list:
    crystals = sim.lattices(3)
    sim.write_expt("together.expt", *crystals)
    for number, one in enumerate(crystals):
        sim.write_expt(f"{number}.expt", one)
    return crystals


def test_photons_add_up(three: list) -> None:
    alone = [images(f"alone{i}", f"{i}.expt") for i in range(3)]
    together = images("all", "together.expt")
    assert max(np.abs(a - alone[0]).max() for a in alone[1:]) > 0.1 * together.max()
    assert np.abs(together - sum(alone)).max() < TOLERANCE * together.max()
    scaled = images("scaled", "together.expt", "crystal.lattice_scales=1,0,2.5")
    expected = alone[0] + 2.5 * alone[2]
    assert np.abs(scaled - expected).max() < TOLERANCE * scaled.max()


def test_background_and_noise_once(three: list) -> None:
    """3 photons of background in every pixel, not 9."""
    sim.simulate("together.expt", *sim.QUICK, "crystal.lattice_scales=0,0,0")
    values = sim.pixels()
    # a mean of Poisson's distribution: the standard error is sqrt(3/n), 0.05
    assert abs(values.mean() - 3) < 5 * np.sqrt(3 / values.size)


def test_the_list_has_each_crystal_on_the_same_images(three: list) -> None:
    sim.simulate("together.expt", *sim.QUICK)
    listed = sim.load(check_format=True)
    assert len(listed) == 3 and len(listed.imagesets()) == 1
    assert len(listed.scans()) == len(listed.beams()) == len(listed.detectors()) == 1
    for found, put_in in zip(listed, three):
        assert found.identifier == put_in.identifier
        assert np.allclose(found.crystal.get_A(), put_in.crystal.get_A(), atol=1e-15)
    file = FormatNXmxNanoBragg("simulated.nxs")
    for found, put_in in zip(file.get_crystals(), three):
        assert np.allclose(found.get_A(), put_in.crystal.get_A(), atol=1e-15)
    assert len(file.get_crystals()) == 3


def test_what_is_simulated_can_be_simulated_again(three: list) -> None:
    """The list that a run writes, of an image set that all crystals share."""
    first = images("first", "together.expt")
    again = images("again", "first.expt")
    assert np.array_equal(first, again)


def test_together_and_apart(tmp_cwd: Path) -> None:
    """Stills have no images in common unless one says so."""
    crystals = [sim.still(crystal=one.crystal, identifier=one.identifier) for one in sim.lattices()]
    for other in crystals[1:]:
        other.beam, other.detector = crystals[0].beam, crystals[0].detector
    sim.write_expt("stills.expt", *crystals)
    exact = (*sim.STILL, "noise.poisson=False", "background.level=0")
    sim.simulate("stills.expt", *exact)
    apart = [sim.pixels(f"simulated_{i}.nxs").astype(float) for i in (1, 2)]
    sim.simulate("stills.expt", *exact, "crystal.lattices=together", "output.prefix=one")
    together = sim.pixels("one.nxs").astype(float)
    assert np.abs(together - sum(apart)).max() < TOLERANCE * together.max()


def test_domains_of_their_own(tmp_cwd: Path) -> None:
    """Two crystals of one orientation and one seed do not have the same domains."""
    one, other = sim.lattices()
    other.crystal = one.crystal
    sim.write_expt("twice.expt", one, other)
    sim.write_expt("once.expt", one)
    spread = "crystal.mosaic.spread_deg=1", "crystal.mosaic.domains=3"
    twice, once = (images(f"{name}-domains", f"{name}.expt", *spread) for name in ("twice", "once"))
    assert np.abs(twice - 2 * once).max() > 0.1 * twice.max()


@pytest.mark.parametrize("scales", ["1,2", "1,2,3,4"])
def test_scales_of_another_number(scales: str, three: list) -> None:
    said = sim.refused("together.expt", *sim.QUICK, f"crystal.lattice_scales={scales}")
    assert f"gives {len(scales.split(','))} factors, but there are 3 crystals" in said
    said = sim.refused("0.expt", *sim.QUICK, "crystal.lattice_scales=2")
    assert "crystal.spot_scale" in said
