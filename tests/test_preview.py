# ruff: noqa: E402
"""The picture of an image that a simulation makes: every spot to be seen, rings, the beam."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from dxtbx.model import Beam, Detector
from matplotlib.image import imread

from nanobragg_plugin.run import preview


@pytest.mark.parametrize("panels", [1, 2])
def test_picture(panels: int, tmp_cwd: Path) -> None:
    path = sim.write_expt("models.expt", sim.sweep(detector=sim.detector(panels)))
    sim.simulate(path, *sim.QUICK, "output.preview=image.png")
    picture = imread("image.png")
    assert min(picture.shape[:2]) > 300
    # white paper, dark spots, a red cross at the beam centre, blue rings
    brightness = picture[..., :3].sum(-1)
    assert (brightness == 3).mean() > 0.1 and brightness.min() < 0.3
    red, green, blue = np.moveaxis(picture[..., :3], -1, 0)
    assert ((blue > 0.6) & (red < 0.4)).sum() > 200
    assert ((red > 0.7) & (green < 0.4) & (blue < 0.6)).sum() > 10


@pytest.mark.parametrize("value", [0.0, -3.0, 1.0, 1e9])
def test_pictures_of_nothing(value: float, tmp_path: Path) -> None:
    image = np.full((18, 24), value)
    preview.write_preview(tmp_path / "image.png", [image], sim.detector(), Beam((0, 0, 1), 1.0))
    assert imread(tmp_path / "image.png").ndim == 3


def test_a_beam_that_misses_the_panel(tmp_path: Path) -> None:
    """A panel at 2 theta = 90 degrees, which the beam is parallel to."""
    detector = Detector()
    panel = detector.add_panel()
    panel.set_frame((0, 0, -1), (0, -1, 0), (50, 20, 20))
    panel.set_image_size((40, 40))
    panel.set_pixel_size((1, 1))
    beam = Beam((0, 0, 1), 1.0)
    preview.write_preview(tmp_path / "image.png", [np.ones((40, 40))], detector, beam)
    assert imread(tmp_path / "image.png").ndim == 3
