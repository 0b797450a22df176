# ruff: noqa: E402
"""Radiation damage by nanobragg.simulate, against dxtbx's resolutions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from dxtbx.model import Scan, SimplePxMmStrategy

EXPECTED = (*sim.QUICK, "noise.poisson=False", "background.level=0")
B, LOSS = "crystal.damage.b_per_image=2.5", "crystal.damage.loss_per_image=0.03"


def resolutions() -> np.ndarray:
    """d [slow, fast] at pixels' middles, by dxtbx, whatever the sensor."""
    panel = sim.detector()[0]
    panel.set_px_mm_strategy(SimplePxMmStrategy())
    s0 = sim.sweep().beam.get_s0()
    rows = range(18), range(24)
    return np.array([[panel.get_resolution_at_pixel(s0, (x + 0.5, y + 0.5)) for x in rows[1]]
                     for y in rows[0]])  # fmt: skip


def test_ratios_of_images(tmp_cwd: Path) -> None:
    """Each pixel of each image to that without damage: exp(-loss n) exp(-B n/(2 d^2)), d by
    dxtbx. Measured: 1e-7, float32's rounding."""
    sim.write_expt("models.expt", sim.sweep())
    sim.simulate("models.expt", *EXPECTED)
    whole = sim.pixels().astype(float)
    sim.simulate("models.expt", *EXPECTED, B, LOSS, "output.prefix=hurt")
    found = sim.pixels("hurt.nxs")
    assert "B grows by 2.5 Angstrom^2 an image, 3 % of the intensities are lost; 0 images" in (
        Path("nanobragg.simulate.log").read_text()
    )
    for image in range(3):
        n = image + 0.5
        expected = whole[image] * np.exp(-0.03 * n - 2.5 * n / (2 * resolutions() ** 2))
        np.testing.assert_allclose(found[image], expected, rtol=1e-6)


def test_images_of_a_part_of_the_scan_are_as_within_it(tmp_cwd: Path) -> None:
    """Damage counts from the scan's first image; a background is not damaged."""
    sim.write_expt("models.expt", sim.sweep())
    arguments = [*EXPECTED, B, LOSS, "output.overwrite=True", "compute.kernel=dense"]
    sim.simulate("models.expt", *arguments)
    whole = sim.pixels()
    sim.simulate("models.expt", *arguments, "sampling.image_range=12,13")
    assert np.array_equal(sim.pixels(), whole[1:])
    sim.simulate("models.expt", *arguments, "background.level=4")
    np.testing.assert_allclose(sim.pixels() - 4, whole, atol=1e-5 * whole.max())
    sim.simulate("models.expt", *arguments, "sampling.image_range=13,13", "background.level=4")
    np.testing.assert_allclose(sim.pixels()[0] - 4, whole[2], atol=1e-5 * whole.max())


def test_images_that_do_not_turn_are_damaged_and_stills_are_refused(tmp_cwd: Path) -> None:
    sim.write_expt("still.expt", sim.still())
    still = [a for a in EXPECTED if not a.startswith("sampling.phisteps")]
    assert "a still has none" in sim.refused("still.expt", *still, B)
    sim.write_expt("models.expt", sim.sweep())
    message = sim.refused("models.expt", *EXPECTED, LOSS, "background.water_c=3")
    assert "use background.water instead" in message
    sim.write_expt("same.expt", sim.sweep(scan=Scan((1, 3), (5.0, 0.0))))
    sim.simulate("same.expt", *still, LOSS)
    images = sim.pixels().astype(float)
    np.testing.assert_allclose(images[2], images[0] * math.exp(-0.06), rtol=1e-6)
