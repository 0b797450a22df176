"""A picture of an image: logarithmic scale, beam centre, resolution rings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanobragg_plugin.run.outputs import whole

#: d-spacings that rings are drawn at, Angstrom; of them those that reach the detector.
RINGS = (50.0, 20.0, 10.0, 6.0, 4.0, 3.0, 2.5, 2.0, 1.7, 1.5, 1.3, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6)
MAX_RINGS = 6
#: Dots along an edge of the picture, about.
SHOWN = 800
#: Points along an edge of a panel at which the resolution is computed.
NODES = 81


def write_preview(path: str | Path, images: Sequence[np.ndarray], detector: Any, beam: Any) -> None:
    """Write a PNG of one image, an array [slow, fast] a panel.

    A single panel is drawn as it is, in pixels; of several, each where it lies, seen along
    the beam, in mm. Pixels of 0 and less are white.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    single = len(detector) == 1
    view = _view(beam)
    drawn = _draw_images(axes, images, [_corners(panel, view, single) for panel in detector])
    figure.colorbar(drawn, ax=axes, label="pixel value", shrink=0.75)
    _draw_rings(axes, detector, beam, view, single)
    _draw_beam_centre(axes, detector, beam, view, single)
    axes.set_aspect("equal" if not single else _aspect(detector[0]))
    axes.set_xlabel("fast, pixels" if single else "mm")
    axes.set_ylabel("slow, pixels" if single else "mm")
    with whole(path) as temporary:
        figure.savefig(temporary, format="png", bbox_inches="tight")


def _draw_images(axes: Any, images: Sequence[np.ndarray], corners: list[np.ndarray]) -> Any:
    """Draw each panel between its corners [4, 2], all on one scale; the last of the drawings."""
    from matplotlib.colors import LogNorm
    from matplotlib.transforms import Affine2D

    everything = np.concatenate([np.asarray(image, float).ravel() for image in images])
    positive = everything[everything > 0]
    low, middle, high = np.percentile(positive, (1, 50, 99.98)) if len(positive) else (0.5, 1, 2)
    high = max(high, 50 * middle)  # or noise would look like spots where there are few
    norm = LogNorm(max(low, high * 1e-5), max(high, low * 1.01))
    factor = max(1, round(np.sqrt(len(everything)) / SHOWN))
    for image, corner in zip(images, corners):
        shown = _binned(np.asarray(image, float), factor)
        n_slow, n_fast = image.shape
        fast, slow = (corner[1] - corner[0]) / n_fast, (corner[3] - corner[0]) / n_slow
        place = Affine2D.from_values(*fast, *slow, *corner[0])
        drawn = axes.imshow(
            np.ma.masked_less_equal(shown, 0),
            cmap="magma_r",
            norm=norm,
            interpolation="nearest",
            extent=(0, shown.shape[1] * factor, shown.shape[0] * factor, 0),
            transform=place + axes.transData,
        )
    ends = np.concatenate(corners)
    axes.set_xlim(ends[:, 0].min(), ends[:, 0].max())
    axes.set_ylim(ends[:, 1].min(), ends[:, 1].max())
    if len(images) == 1:
        axes.invert_yaxis()
    return drawn


def _binned(image: np.ndarray, factor: int) -> np.ndarray:
    """The largest value of every factor x factor pixels: spots smaller than a dot still show."""
    n_slow, n_fast = image.shape
    padded = np.pad(image, ((0, -n_slow % factor), (0, -n_fast % factor)))
    blocks = padded.reshape(padded.shape[0] // factor, factor, -1, factor)
    return blocks.max(axis=(1, 3))


def _grid(corners: np.ndarray, n_slow: int, n_fast: int) -> np.ndarray:
    """[n_slow, n_fast, ...] points between the corners [4, ...] of a panel, which are at (fast,
    slow) = (0, 0), (1, 0), (1, 1), (0, 1)."""
    fast = np.linspace(0, 1, n_fast)[None, :, None]
    slow = np.linspace(0, 1, n_slow)[:, None, None]
    return corners[0] + fast * (corners[1] - corners[0]) + slow * (corners[3] - corners[0])


def _ends(panel: Any) -> list[tuple[float, float]]:
    """Pixel coordinates (fast, slow) of the corners."""
    fast, slow = panel.get_image_size()
    return [(0, 0), (fast, 0), (fast, slow), (0, slow)]


def _lab(panel: Any) -> np.ndarray:
    """[4, 3] mm: the corners in the laboratory."""
    size = np.array(panel.get_pixel_size())
    return np.array([panel.get_lab_coord(tuple(size * end)) for end in _ends(panel)])


def _corners(panel: Any, view: np.ndarray, single: bool) -> np.ndarray:
    """[4, 2]: the corners on the page."""
    return np.array(_ends(panel), float) if single else (_lab(panel) @ view.T)[:, :2]


def _aspect(panel: Any) -> float:
    """Height of a pixel over its width."""
    width, height = panel.get_pixel_size()
    return height / width


def _view(beam: Any) -> np.ndarray:
    """Rows: right, up and along the beam, of somebody who looks from the crystal downstream."""
    along = np.array(beam.get_unit_s0())
    up = np.array([0.0, 1.0, 0.0]) if abs(along[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    right = np.cross(along, up)
    right /= np.linalg.norm(right)
    return np.array([right, np.cross(right, along), along])


def _draw_rings(axes: Any, detector: Any, beam: Any, view: np.ndarray, single: bool) -> None:
    """Lines of equal resolution on every panel, each labelled once."""
    pages, inverse_d = [], []
    for panel in detector:
        rays = _grid(_lab(panel), NODES, NODES)
        cosine = rays @ view[2] / np.linalg.norm(rays, axis=-1)
        # 1/d = 2 sin(theta)/lambda
        inverse_d.append(np.sqrt(np.maximum(2 - 2 * cosine, 0)) / beam.get_wavelength())
        pages.append(_grid(_corners(panel, view, single), NODES, NODES))
    low, high = min(map(np.min, inverse_d)), max(map(np.max, inverse_d))
    rings = [1 / d for d in RINGS if low < 1 / d < high][-MAX_RINGS:]
    for ring in rings:
        places = []
        for page, values in zip(pages, inverse_d):
            if values.min() < ring < values.max():
                lines = axes.contour(
                    page[..., 0], page[..., 1], values, [ring], colors="tab:blue", linewidths=0.6
                )
                places += [line for line in lines.allsegs[0] if len(line)]
        if places:
            axes.annotate(
                f"{1 / ring:g} Å",
                _innermost(np.concatenate(places), axes),
                color="tab:blue",
                fontsize=8,
                ha="center",
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
            )


def _innermost(points: np.ndarray, axes: Any) -> np.ndarray:
    """Of points [n, 2] of a ring that which is farthest from the page's edges."""
    (left, right), (low, high) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
    across, up = ((points - (left, low)) / (right - left, high - low)).T
    return points[np.argmax(np.min([across, 1 - across, up, 1 - up], axis=0))]


def _draw_beam_centre(axes: Any, detector: Any, beam: Any, view: np.ndarray, single: bool) -> None:
    """A cross where the direct beam goes, if that is on the page."""
    if not single:
        centre = (0.0, 0.0)  # the page is seen along the beam
    else:
        try:
            mm = detector[0].get_ray_intersection(tuple(view[2]))
        except RuntimeError:
            return
        centre = tuple(np.array(mm) / detector[0].get_pixel_size())
    axes.plot(*centre, "+", color="tab:red", ms=12, scalex=False, scaley=False)
