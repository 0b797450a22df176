"""A picture of an image: logarithmic scale, beam centre, resolution rings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: d-spacings that rings are drawn at, Angstrom; of them those that reach the detector.
RINGS = (20.0, 10.0, 6.0, 4.0, 3.0, 2.5, 2.0, 1.7, 1.5, 1.3, 1.1, 1.0, 0.9, 0.8)
MAX_RINGS = 6


def write_preview(path: str | Path, images: Sequence[np.ndarray], detector: Any, beam: Any) -> None:
    """Write a PNG of one image, an array [slow, fast] a panel.

    A single panel is drawn as it is, in pixels; of several, each where it lies, seen along
    the beam, in mm. Pixels of 0 are white.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    positive = np.concatenate([image[image > 0].ravel() for image in images] or [np.ones(1)])
    low, high = (0.5, 2.0) if not len(positive) else np.percentile(positive, (1, 99.98))
    norm = LogNorm(max(float(low), float(high) * 1e-5), max(float(high), float(low) * 1.01))
    single = len(detector) == 1
    view = _view(beam)
    for panel, image in zip(detector, images):
        n_slow, n_fast = image.shape
        corners = [(0, 0), (n_fast, 0), (n_fast, n_slow), (0, n_slow)]
        grid = np.array([_on_page(panel, c, view, single) for c in corners])
        shown = np.ma.masked_less_equal(np.asarray(image, float), 0)
        if single:
            drawn = axes.imshow(shown, cmap="magma_r", norm=norm, extent=(0, n_fast, n_slow, 0))
        else:
            u, v = np.linspace(0, 1, n_fast + 1)[None, :, None], np.linspace(0, 1, n_slow + 1)
            v = v[:, None, None]
            page = grid[0] + u * (grid[1] - grid[0]) + v * (grid[3] - grid[0])
            drawn = axes.pcolormesh(
                page[..., 0], page[..., 1], shown, cmap="magma_r", norm=norm, rasterized=True
            )
    figure.colorbar(drawn, ax=axes, label="photons", shrink=0.75)
    _draw_rings(axes, detector, beam, view, single)
    axes.set_aspect("equal")
    axes.set_xlabel("fast, pixels" if single else "mm")
    axes.set_ylabel("slow, pixels" if single else "mm")
    figure.savefig(path, format="png", bbox_inches="tight")


def _view(beam: Any) -> np.ndarray:
    """Rows: right, up and along the beam, of somebody who looks from the crystal downstream."""
    along = np.array(beam.get_unit_s0())
    up = np.array([0.0, 1.0, 0.0]) if abs(along[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    right = np.cross(along, up)
    right /= np.linalg.norm(right)
    return np.array([right, np.cross(right, along), along])


def _on_page(panel: Any, pixel: tuple, view: np.ndarray, single: bool) -> np.ndarray:
    if single:
        return np.array(pixel, float)
    return (view @ np.array(panel.get_lab_coord(panel.pixel_to_millimeter(pixel))))[:2]


def _draw_rings(axes: Any, detector: Any, beam: Any, view: np.ndarray, single: bool) -> None:
    """Rings of equal resolution, and a cross where the direct beam goes."""
    limits = axes.get_xlim(), axes.get_ylim()
    wavelength = beam.get_wavelength()
    azimuth = np.linspace(0, 2 * np.pi, 721)
    reach = detector.get_max_resolution(beam.get_s0())
    inside = [d for d in RINGS if reach < d and wavelength / 2 < d]
    for d in inside[-MAX_RINGS:]:
        two_theta = 2 * np.arcsin(wavelength / (2 * d))
        cone = np.sin(two_theta) * (
            np.cos(azimuth)[:, None] * view[0] + np.sin(azimuth)[:, None] * view[1]
        )
        rays = cone + np.cos(two_theta) * view[2]
        points = np.array([_hit(detector, ray, view, single) for ray in rays])
        axes.plot(points[:, 0], points[:, 1], color="tab:blue", lw=0.6, alpha=0.7)
        seen = points[
            (points[:, 0] > min(limits[0]))
            & (points[:, 0] < max(limits[0]))
            & (points[:, 1] > min(limits[1]))
            & (points[:, 1] < max(limits[1]))
        ]
        if len(seen):
            axes.annotate(f"{d:g} Å", seen[len(seen) // 8], color="tab:blue", fontsize=8)
    center = _hit(detector, view[2], view, single)
    axes.plot(*center, "+", color="tab:red", ms=12)
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])


def _hit(detector: Any, ray: np.ndarray, view: np.ndarray, single: bool) -> np.ndarray:
    """Where a ray meets the page: the panel's pixels, or the plane of the first panel's distance;
    NaN where it does not."""
    panel = detector[0]
    try:
        if single:
            mm = panel.get_ray_intersection(tuple(ray))
            return np.array(panel.millimeter_to_pixel(mm))
    except RuntimeError:
        return np.full(2, np.nan)
    distance = abs(panel.get_directed_distance())
    along = view @ ray
    return along[:2] / along[2] * distance if along[2] > 0 else np.full(2, np.nan)
