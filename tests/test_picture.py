# ruff: noqa: E402
"""Pictures: rings where dxtbx has the resolution, pixels, marks and the beam where they belong."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from dxtbx.model import Beam, Detector, ParallaxCorrectedPxMmStrategy
from libtbx.utils import Sorry

from nanobragg_plugin.run import marks, page, picture, pixels

BEAM = Beam((0.05, 0.1, 1.0), 1.1)
BARE = picture.Style(rings=(), beam_centre=False, frame=False)


def arc(step: float = 35.0, count: int = 3) -> Detector:
    """Panels on an arc about y, each `step` degrees on, of rectangular pixels."""
    detector = Detector()
    for angle in np.radians(step) * (np.arange(count) - (count - 1) / 2):
        fast = np.array([np.cos(angle), 0, np.sin(angle)])
        normal = np.array([np.sin(angle), 0, -np.cos(angle)])
        panel = detector.add_panel()
        panel.set_frame(tuple(fast), (0, -1, 0), tuple(normal * 60 - fast * 20 + (0, 25, 0)))
        panel.set_image_size((200, 100))
        panel.set_pixel_size((0.2, 0.5))
    return detector


def wide(parallax: bool = False) -> Detector:
    """A tilted panel of silicon that the beam meets."""
    detector = Detector()
    panel = detector.add_panel()
    panel.set_frame((0.96, 0, 0.28), (0, -1, 0), (-40, 30, -70))
    panel.set_image_size((300, 200))
    panel.set_pixel_size((0.3, 0.4))
    if parallax:
        panel.set_px_mm_strategy(ParallaxCorrectedPxMmStrategy(3.6, 0.45))
        panel.set_mu(3.6)
        panel.set_thickness(0.45)
    return detector


def drawn(detector: Detector, beam: Beam, style: picture.Style, spots=(), values=None):
    """The figure, and its axes of the image."""
    if values is None:
        values = [np.ones(panel.get_image_size()[::-1]) for panel in detector]
    shown = page.Page.of(detector, beam)
    figure = picture.figure_of(pixels.Image(values), shown, style, tuple(spots))
    return figure, figure.axes[0]


def dots(figure) -> np.ndarray:
    """[slow, fast, 3] of 0 to 255: what the PNG holds."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)


@pytest.mark.parametrize("parallax", [False, True])
def test_rings_of_a_panel(parallax: bool) -> None:
    """Against dxtbx's resolution at pixels, on a tilted panel in a tilted beam: exact without
    parallax (measured 4e-15), within its inversion with it (measured 4e-6)."""
    detector = wide(parallax)
    _, axes = drawn(detector, BEAM, replace(BARE, rings=None))
    labels = [float(text.get_text()[:-2]) for text in axes.texts]
    assert len(labels) >= 4 and set(labels) <= set(page.RINGS)
    assert len(axes.lines) == len(labels)
    for line, d in zip(axes.lines, labels):
        points = line.get_xydata()
        points = points[np.isfinite(points).all(1)]
        assert len(points) > 100
        seen = [detector[0].get_resolution_at_pixel(BEAM.get_s0(), tuple(p)) for p in points]
        np.testing.assert_allclose(seen, d, rtol=2e-5 if parallax else 1e-12)


def test_rings_of_several_panels() -> None:
    """Each panel's own part of each ring, in its pixels, against dxtbx."""
    detector, seen = arc(), set()
    for d in (3.0, 1.5, 1.1):
        for number, panel in enumerate(detector):
            points = page.ring(panel, BEAM, d)
            points = points[np.isfinite(points).all(1)] if len(points) else points
            for point in points:
                at = panel.get_resolution_at_pixel(BEAM.get_s0(), tuple(point))
                assert at == pytest.approx(d, rel=1e-12)
            if len(points):
                seen.add(number)
    assert seen == {0, 1, 2}
    assert not np.isfinite(page.ring(detector[2], BEAM, 20.0)).any()  # far from the beam
    assert len(page.ring(detector[1], BEAM, 0.54)) == 0  # less than half the wavelength


def test_the_beam_is_where_dxtbx_has_it() -> None:
    for detector in (wide(), wide(parallax=True)):
        centre = page.Page.of(detector, BEAM).beam_centre()
        expected = detector[0].get_ray_intersection_px(BEAM.get_s0())
        np.testing.assert_allclose(centre, expected, atol=1e-9)
    # of several panels the page is seen along the beam
    np.testing.assert_allclose(page.Page.of(arc(), BEAM).beam_centre(), (0, 0), atol=1e-9)


def test_the_page_of_several_panels_is_the_laboratory() -> None:
    """With the beam along -z right is x and up is y, for whoever looks from the crystal; also of
    panels that wrap around it by more than 90 degrees."""
    for detector in (arc(), arc(55, 4)):
        shown = page.Page.of(detector, Beam((0, 0, 1), 1.0))
        for number, panel in enumerate(detector):
            for pixel in ((0, 0), (200, 100), (17.5, 80.25)):
                mm = (pixel[0] * 0.2, pixel[1] * 0.5)
                lab = panel.get_lab_coord(mm)
                np.testing.assert_allclose(shown.place(number, pixel)[0], lab[:2], atol=1e-12)
    picture.figure_of(pixels.Image([np.ones((100, 200))] * 4), shown, picture.Style()).canvas.draw()


@pytest.mark.parametrize("size, dots_a_pixel", [(72, 3), (95, 3), (24, 1), (96, 4)])
def test_a_bright_pixel_is_where_it_belongs(size: int, dots_a_pixel: int) -> None:
    """Fast to the right, slow downwards, in squares of whole dots, as in dials.image_viewer."""
    detector = sim.detector()
    detector[0].set_pixel_size((0.5, 0.5))
    values = np.ones((18, 24))
    values[4, 21] = 100
    image = dots(drawn(detector, BEAM, replace(BARE, size_px=size), values=[values])[0])
    assert image.shape[:2] == (18 * dots_a_pixel, 24 * dots_a_pixel)
    rows, columns = np.nonzero(image.sum(-1) < 300)
    n = dots_a_pixel
    assert {(r // n, c // n) for r, c in zip(rows, columns)} == {(4, 21)}
    assert len(rows) == n * n


def test_pixels_that_are_no_squares() -> None:
    """0.5 x 0.6 mm: 1.2 times as high as wide."""
    image = dots(drawn(sim.detector(), BEAM, replace(BARE, size_px=240))[0])
    assert image.shape[:2] == (216, 240)


def test_several_bright_pixels_of_panels() -> None:
    """Each dark dot against the laboratory's x and y of its pixel's middle."""
    detector = arc()
    values = [np.ones((100, 200)) for _ in detector]
    bright = ((0, 20, 30), (1, 150, 80), (2, 60, 10))
    for panel, fast, slow in bright:
        values[panel][slow - 1 : slow + 2, fast - 2 : fast + 3] = 100
    shown = page.Page.of(detector, Beam((0, 0, 1), 1.0))
    figure = picture.figure_of(pixels.Image(values), shown, replace(BARE, size_px=1000))
    image = dots(figure).sum(-1)
    left, right, bottom, top = shown.limits()
    for panel, fast, slow in bright:
        x, y, _ = detector[panel].get_lab_coord(((fast + 0.5) * 0.2, (slow + 0.5) * 0.5))
        column = (x - left) / (right - left) * image.shape[1]
        row = (top - y) / (top - bottom) * image.shape[0]
        assert image[int(row), int(column)] < 100
    assert (image < 100).mean() < 0.01


def test_a_single_bright_pixel_survives_binning() -> None:
    image = np.zeros((1001, 1703))
    image[1000, 1702] = image[500, 3] = 7
    binned = pixels.largest(image, 4, 0)
    assert binned.shape == (251, 426)
    assert binned[250, 425] == binned[125, 0] == 7 and (binned > 0).sum() == 2


def test_masked_pixels_and_overloads_have_their_own_colours() -> None:
    values = np.full((18, 24), 5.0)
    values[0, 0], values[1, 1], values[2, 2] = -1, 1e9, np.nan
    bad, over = np.zeros((2, 18, 24), bool)
    bad[0, 0], over[1, 1] = True, True
    image = pixels.Image([values], [bad], [over])
    for colours, masked in (("gray_r", (0xC9, 0xD8, 0xE6)), ("inferno", (0x2F, 0x43, 0x58))):
        scale = pixels.Scale(colours=colours).fitted(image)
        shown = np.round(pixels.coloured(image, scale)[0][..., :3] * 255).astype(int)
        assert tuple(shown[0, 0]) == tuple(shown[2, 2]) == masked
        assert tuple(shown[1, 1]) == (0xE8, 0x59, 0x0C)
        assert (shown == masked).all(-1).sum() == 2
        # among 3 x 3 others it does not show, an overload does
        binned = np.round(pixels.coloured(image, scale, 3)[0][..., :3] * 255).astype(int)
        assert not (binned == masked).all(-1).any() and tuple(binned[0, 0]) == (0xE8, 0x59, 0x0C)


@pytest.mark.parametrize(
    "contrast, half", [("log", math.sqrt(10 * 1000)), ("linear", 505.0), ("sqrt", 257.5)]
)
def test_contrast(contrast: str, half: float) -> None:
    """The value that is half way: the geometric mean, the mean, a quarter of the way."""
    scale = pixels.Scale(contrast, 10, 1000, colours="gray")
    values = np.array([[10.0, half, 1000.0, 1.0, 5000.0]])
    shown = pixels.coloured(pixels.Image([values]), scale)[0][0, :, 0]
    np.testing.assert_allclose(shown, (0, 0.5, 1, 0, 1), atol=0.003)  # 256 greys


def test_percentiles() -> None:
    """numpy's, of 1 to 1000, zeros and a masked pixel left out."""
    values = np.concatenate([np.arange(1.0, 1001), np.zeros(50), [1e9]]).reshape(1, -1)
    bad = values == 1e9
    scale = pixels.Scale(percentiles=(20, 99)).fitted(pixels.Image([values], [bad]))
    assert (scale.vmin, scale.vmax) == pytest.approx((200.8, 5005), rel=1e-6)  # 10 medians
    scale = pixels.Scale(vmin=2, percentiles=(20, 99)).fitted(pixels.Image([values], [bad]))
    assert scale.vmin == 2


@pytest.mark.parametrize(
    "scale, message",
    [
        (pixels.Scale(vmin=5, vmax=5), "not less than vmax"),
        (pixels.Scale(vmin=-1), "values above 0"),
        (pixels.Scale(vmin=0, vmax=7), "values above 0"),
    ],
)
def test_scales_that_are_none(scale: pixels.Scale, message: str) -> None:
    with pytest.raises(Sorry, match=message):
        scale.fitted(pixels.Image([np.ones((3, 4))]))


def test_marks_are_where_the_spots_are() -> None:
    """The centre of a mark's dots, on a zoomed panel; measured 0.04 pixels."""
    detector = sim.detector()
    spots = marks.Spots(
        "found", np.array([0, 0]), np.array([[10.25, 8.5], [3.0, 2.0]]), np.zeros((2, 3), int)
    )
    shown = page.Page(detector, BEAM, (0,), (6, 16, 4, 14))
    style = replace(BARE, size_px=400)
    values = pixels.Image([np.zeros((18, 24))])
    plain = dots(picture.figure_of(values, shown, style))
    marked = dots(picture.figure_of(values, shown, style, (spots,)))
    rows, columns = np.nonzero((plain != marked).any(-1))
    scale = marked.shape[1] / 10, marked.shape[0] / 10
    assert (columns.min() + columns.max() + 1) / 2 / scale[0] + 6 == pytest.approx(10.25, abs=0.06)
    assert (rows.min() + rows.max() + 1) / 2 / scale[1] + 4 == pytest.approx(8.5, abs=0.06)


def test_labels_do_not_cover_each_other() -> None:
    """Two spots side by side and ten on one another, of which there is room for few."""
    where = np.concatenate([[[2, 5], [14, 5]], np.full((10, 2), 12.0)])
    hkl = np.arange(36).reshape(12, 3) - 3
    spots = marks.Spots("predicted", np.zeros(12, int), where, hkl, np.ones(12, bool))
    figure, axes = drawn(sim.detector(), BEAM, replace(BARE, size_px=480), [spots])
    texts = [text.get_text() for text in axes.texts]
    assert "\N{MINUS SIGN}3 \N{MINUS SIGN}2 \N{MINUS SIGN}1" in texts and "0 1 2" in texts
    assert 3 <= len(texts) <= 5
    boxes = [text.get_window_extent(figure.canvas.get_renderer()) for text in axes.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_pictures_are_the_same_each_time(tmp_path) -> None:
    detector = arc()
    values = [np.random.default_rng(3).poisson(5.0, (100, 200)) for _ in detector]
    for name in ("a.png", "b.png"):
        shown = page.Page.of(detector, BEAM)
        picture.write_picture(tmp_path / name, pixels.Image(values), shown, picture.Style())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
