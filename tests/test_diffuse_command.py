# ruff: noqa: E402
"""Diffuse scattering by nanobragg.simulate and nanobragg.trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from dxtbx.model import Crystal

from nanobragg_plugin.command_line import trace

EXPECTED = (*sim.QUICK, "noise.poisson=False", "background.level=0", "compute.kernel=dense")
DIFFUSE = ("crystal.diffuse.sigma_ang=0.6,0.6,0.6", "crystal.diffuse.gamma_ang=25,25,25")
LOG = Path("nanobragg.simulate.log")


def test_photons_move_from_spots_to_halos(tmp_cwd: Path) -> None:
    """The brightest pixel loses, the dark ones between spots gain; of what the whole image has
    little changes (measured: 0.94, of which an image need not have all); and the log says so."""
    sim.write_expt("models.expt", sim.sweep())
    sim.simulate("models.expt", *EXPECTED)
    assert "Diffuse" not in LOG.read_text()
    plain = sim.pixels().astype(float)
    sim.simulate("models.expt", *EXPECTED, *DIFFUSE, "output.prefix=diffuse")
    assert "Diffuse scattering: sigma 0.6, 0.6, 0.6 Angstrom, gamma 25, 25, 25 Angstrom" in (
        LOG.read_text()
    )
    found = sim.pixels("diffuse.nxs").astype(float)
    dark = plain < 1e-3 * plain.max()
    assert found.max() < plain.max() and dark.sum() > 500
    assert found[dark].mean() > 20 * plain[dark].mean()
    assert found.sum() == pytest.approx(plain.sum(), rel=0.1)


def test_a_sigma_of_0_changes_nothing(tmp_cwd: Path) -> None:
    sim.write_expt("models.expt", sim.sweep())
    sim.simulate("models.expt", *EXPECTED)
    none = ("crystal.diffuse.sigma_ang=0,0,0", DIFFUSE[1], "output.prefix=zero")
    sim.simulate("models.expt", *EXPECTED, *none)
    assert np.array_equal(sim.pixels(), sim.pixels("zero.nxs"))


def test_a_part_of_the_scan_and_regions_are_as_within_the_whole(tmp_cwd: Path) -> None:
    sim.write_expt("models.expt", sim.sweep())
    arguments = (*EXPECTED, *DIFFUSE, "crystal.damage.loss_per_image=0.2")
    sim.simulate("models.expt", *arguments)
    whole = sim.pixels()
    part = ("sampling.image_range=12,12", "sampling.roi=3,9,4,11", "output.prefix=part")
    sim.simulate("models.expt", *arguments, *part)
    found = sim.pixels("part.nxs")[0]
    inside = np.zeros(found.shape, bool)
    inside[4:12, 3:10] = True
    np.testing.assert_allclose(found[inside], whole[1][inside], rtol=1e-6)
    assert (found[~inside] == 0).all() and (found[inside] > 0).all()


def test_values_that_the_symmetry_does_not_allow(tmp_cwd: Path) -> None:
    crystal = Crystal((40, 0, 0), (0, 40, 0), (0, 0, 60), space_group_symbol="P43212")
    sim.write_expt("models.expt", sim.sweep(crystal=crystal))
    message = sim.refused("models.expt", *EXPECTED, "crystal.diffuse.sigma_ang=1,2,3", DIFFUSE[1])
    assert "sigma_ang=1,2,3: a and b are equivalent in P 43 21 2" in message
    message = sim.refused("models.expt", *EXPECTED, *DIFFUSE, "background.water_c=3")
    assert "use background.water instead" in message
    sim.simulate("models.expt", *EXPECTED, "crystal.diffuse.sigma_ang=1,1,3", DIFFUSE[1])


def test_a_trace_is_of_the_spots(tmp_cwd: Path, capsys: pytest.CaptureFixture) -> None:
    sim.write_expt("models.expt", sim.sweep())
    trace.run(["models.expt", *EXPECTED, *DIFFUSE, "pixel=5,6"])
    printed = capsys.readouterr().out
    assert "images have the diffuse scattering besides" in printed and "spots_left" in printed
