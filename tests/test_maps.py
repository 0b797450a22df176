# ruff: noqa: E402
"""What each pixel sees: maps beside the pixels of an NXmx file."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from dials.algorithms.spot_prediction import PixelToMillerIndex
from dxtbx.format.FormatNXmx import FormatNXmx

from nanobragg_plugin.format.FormatNXmxNanoBragg import FormatNXmxNanoBragg

MAPS = (*sim.QUICK, "output.maps=True", "noise.poisson=False", "background.level=0")


def maps(index: int = 0, name: str = "simulated.nxs") -> dict:
    return FormatNXmxNanoBragg(name).get_maps(index)


def without_parallax(experiment):
    """DIALS puts pixels where the mean photon is absorbed; the maps are of their surfaces."""
    for panel in experiment.detector:
        panel.set_mu(0)
        panel.set_thickness(0)
    return experiment


def test_indices_are_those_of_dials(tmp_cwd: Path) -> None:
    """PixelToMillerIndex of DIALS, in the middle of each image; two panels."""
    experiment = sim.sweep(detector=sim.detector(2))
    sim.write_expt("sweep.expt", experiment)
    sim.simulate("sweep.expt", *MAPS)
    models = without_parallax(sim.load()[0])
    transform = PixelToMillerIndex(
        models.beam, models.detector, models.goniometer, models.scan, models.crystal
    )
    first = models.scan.get_array_range()[0]
    for index in range(3):
        for panel, hkl in enumerate(maps(index)["hkl"]):
            assert hkl.shape == (18, 24, 3) and hkl.dtype == np.int16
            for slow, fast in ((0, 0), (3, 20), (17, 23), (9, 11), (5, 2)):
                exact = transform.h(panel, fast + 0.5, slow + 0.5, first + index + 0.5)
                assert np.abs(np.array(exact) - hkl[slow, fast]).max() <= 0.5 + 1e-9


def test_resolution_is_that_of_dxtbx(tmp_cwd: Path) -> None:
    """Measured: 3e-8 relative, the rounding of float32."""
    sim.write_expt("sweep.expt", sim.sweep())
    sim.simulate("sweep.expt", *MAPS)
    models = without_parallax(sim.load()[0])
    (d,) = maps(1)["resolution"]
    assert d.shape == (18, 24)
    panel, s0 = models.detector[0], models.beam.get_s0()
    for slow, fast in ((0, 0), (3, 20), (17, 23), (5, 2)):
        expected = panel.get_resolution_at_pixel(s0, (fast + 0.5, slow + 0.5))
        assert d[slow, fast] == pytest.approx(expected, rel=1e-6)


def test_wavelength_is_the_mean_of_the_photons(tmp_cwd: Path) -> None:
    """By images of each source alone. Measured: 2e-6 relative (the sparse kernel's tolerance)."""
    sim.write_expt("still.expt", sim.still())
    bright = ("beam.fluence=1e27", "noise.poisson=False", "background.level=0", "output.maps=True")
    usual = [one for one in sim.STILL if not one.startswith(("beam.fluence", "background"))]
    lines = {0.98: 1.0, 1.0: 2.0, 1.03: 0.5}
    Path("all.txt").write_text("".join(f"0 0 1 {w} {x}e-10\n" for x, w in lines.items()))
    sim.simulate("still.expt", *usual, *bright, "beam.source_file=all.txt")
    (found,) = maps()["wavelength"]
    total = sim.pixels()[0].astype(float)
    weighed = np.zeros_like(total)
    for wavelength, weight in lines.items():
        Path("one.txt").write_text(f"0 0 1 1 {wavelength}e-10\n")
        more = "beam.source_file=one.txt", "output.prefix=one", "output.overwrite=True"
        sim.simulate("still.expt", *usual, *bright, *more)
        assert "wavelength" not in maps(name="one.nxs")
        image = sim.pixels("one.nxs")[0].astype(float)
        weighed += image * wavelength * weight / sum(lines.values())
    lit = total > 1
    assert lit.sum() > 100 and (found[total < 0.01] == 0).all()
    assert np.abs(found[lit] * total[lit] / weighed[lit] - 1).max() < 1e-4
    assert np.ptp(found[lit]) > 0.01


def test_lattices_and_stills(tmp_cwd: Path) -> None:
    """Of several crystals each has its indices, of stills each image."""
    sim.write_expt("two.expt", *sim.lattices())
    sim.simulate("two.expt", *MAPS)
    two = maps()
    assert list(two) == ["hkl", "hkl_2", "resolution"]
    assert not np.array_equal(two["hkl"][0], two["hkl_2"][0])
    sim.write_expt("still.expt", sim.still())
    still = [one for one in MAPS if "phisteps" not in one]
    sim.simulate("still.expt", *still, "stills.count=2", "output.prefix=stills")
    assert not np.array_equal(maps(0, "stills.nxs")["hkl"], maps(1, "stills.nxs")["hkl"])


def test_readers_that_know_nothing_of_them(tmp_cwd: Path) -> None:
    sim.write_expt("sweep.expt", sim.sweep())
    sim.simulate("sweep.expt", *MAPS)
    pixels = FormatNXmx("simulated.nxs").get_raw_data(1)[0].as_numpy_array()
    assert np.array_equal(pixels, sim.pixels()[1])
    sim.simulate("sweep.expt", *MAPS[:-3], "output.prefix=without")
    assert maps(name="without.nxs") == {}
    with h5py.File("simulated.nxs") as handle:
        assert handle["/entry/nanobragg/maps/resolution"].attrs["units"] == "angstrom"


def test_other_formats_have_no_place(tmp_cwd: Path) -> None:
    sim.write_expt("sweep.expt", sim.sweep())
    assert "output.maps=True needs" in sim.refused("sweep.expt", *MAPS, "output.format=raw")
