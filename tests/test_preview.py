# ruff: noqa: E402
"""The picture of an image: rings where dxtbx has the resolution, every spot to be seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from dxtbx.model import Beam, Detector
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from nanobragg_plugin.run import preview


def arc() -> Detector:
    """Three panels on an arc of 35 degrees about y, of rectangular pixels."""
    detector = Detector()
    for angle in np.radians((-35, 0, 35)):
        fast = np.array([np.cos(angle), 0, np.sin(angle)])
        normal = np.array([np.sin(angle), 0, -np.cos(angle)])
        panel = detector.add_panel()
        panel.set_frame(tuple(fast), (0, -1, 0), tuple(normal * 60 - fast * 20 + (0, 25, 0)))
        panel.set_image_size((200, 100))
        panel.set_pixel_size((0.2, 0.5))
    return detector


def rings(detector: Detector, beam: Beam) -> tuple[list[np.ndarray], list[float]]:
    """Vertices [n, 2] of each line that is drawn, and the labels, Angstrom."""
    figure = Figure()
    FigureCanvasAgg(figure)
    axes, view = figure.add_subplot(), preview._view(beam)
    single = len(detector) == 1
    corners = [preview._corners(panel, view, single) for panel in detector]
    images = [np.ones(panel.get_image_size()[::-1]) for panel in detector]
    preview._draw_images(axes, images, corners)
    preview._draw_rings(axes, detector, beam, view, single)
    lines = [path.vertices for c in axes.collections for path in c.get_paths()]
    return [line for line in lines if len(line)], [float(t.get_text()[:-2]) for t in axes.texts]


def test_rings_of_a_panel() -> None:
    """Against dxtbx's resolution at pixels; the beam is tilted. Measured worst case 2e-3, of the
    straight lines between the points of a contour about the beam centre."""
    detector, beam = sim.detector(), Beam((0.05, 0.1, 1.0), 1.1)
    lines, labels = rings(detector, beam)
    assert len(labels) >= 3 and set(labels) <= set(preview.RINGS)
    for line in lines:
        d = [detector[0].get_resolution_at_pixel(beam.get_s0(), tuple(p)) for p in line]
        nearest = min(labels, key=lambda ring: abs(ring - d[0]))
        np.testing.assert_allclose(d, nearest, rtol=5e-3)


def test_rings_of_several_panels() -> None:
    """The page shows x and y of the laboratory: z is that of one of the planes."""
    detector, beam = arc(), Beam((0, 0, 1), 1.0)
    lines, labels = rings(detector, beam)
    assert len(labels) == preview.MAX_RINGS
    seen = set()
    for line in lines:
        errors = []
        for number, panel in enumerate(detector):
            normal = np.array(panel.get_normal())
            height = (normal @ panel.get_origin() - line @ normal[:2]) / normal[2]
            points = np.column_stack([line, height])
            cosine = -points[:, 2] / np.linalg.norm(points, axis=1)
            d = 1 / np.sqrt(2 - 2 * cosine)
            errors.append((min(np.abs(d / ring - 1).max() for ring in labels), number))
        assert min(errors)[0] < 5e-3  # measured 1e-3
        seen.add(min(errors)[1])
    assert seen == {0, 1, 2}


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
    assert ((blue > 0.6) & (red < 0.3)).sum() > 200
    assert ((red > 0.7) & (green < 0.4) & (blue < 0.4)).sum() > 10


@pytest.mark.parametrize("value", [0.0, -3.0, 1.0, 1e9])
def test_pictures_of_nothing(value: float, tmp_path: Path) -> None:
    image = np.full((18, 24), value)
    preview.write_preview(tmp_path / "image.png", [image], sim.detector(), Beam((0, 0, 1), 1.0))
    assert imread(tmp_path / "image.png").ndim == 3


def test_a_single_bright_pixel_survives_binning() -> None:
    image = np.zeros((1001, 1703))
    image[1000, 1702] = image[500, 3] = 7
    binned = preview._binned(image, 4)
    assert binned.shape == (251, 426)
    assert binned[250, 425] == binned[125, 0] == 7 and (binned > 0).sum() == 2


def test_a_beam_that_misses_the_panel(tmp_path: Path) -> None:
    """A panel at 2 theta = 90 degrees: no cross, the rings are there."""
    detector = Detector()
    panel = detector.add_panel()
    panel.set_frame((0, 0, -1), (0, -1, 0), (50, 20, 20))
    panel.set_image_size((40, 40))
    panel.set_pixel_size((1, 1))
    beam = Beam((0, 0, 1), 1.0)
    preview.write_preview(tmp_path / "image.png", [np.ones((40, 40))], detector, beam)
    _, labels = rings(detector, beam)
    assert labels and all(0.5 < ring < 1 for ring in labels)
