"""Where pixels, rings and the beam lie in a picture of a detector.

A single panel is shown in its own pixels: fast to the right, slow downwards. Several panels are
shown where they lie, in mm, as somebody sees them who looks from the crystal along the beam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scitbx.array_family import flex

#: d-spacings that rings are drawn at, Angstrom; of them those that reach what is shown.
RINGS = (50.0, 20.0, 10.0, 6.0, 4.0, 3.0, 2.5, 2.0, 1.7, 1.5, 1.3, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6)
MAX_RINGS = 6
#: Points of a ring; the sagitta between two is 1e-6 of its radius.
AZIMUTHS = 2880
#: Points along an edge of a panel at which the resolution is computed to choose rings.
NODES = 41


@dataclass(frozen=True)
class Page:
    """detector, beam: dxtbx's; panels: the numbers of those that are shown; region: half-open
    ranges (fast, fast, slow, slow) of the only panel that is shown, in pixels."""

    detector: Any
    beam: Any
    panels: tuple[int, ...]
    region: tuple[int, int, int, int] | None = None

    @classmethod
    def of(cls, detector: Any, beam: Any) -> Page:
        """All of a detector."""
        return cls(detector, beam, tuple(range(len(detector))))

    @property
    def single(self) -> bool:
        return len(self.panels) == 1

    def part(self, number: int) -> tuple[int, int, int, int]:
        """What is shown of a panel, as `region`."""
        fast, slow = self.detector[number].get_image_size()
        return self.region or (0, fast, 0, slow)

    def place(self, number: int, pixels: Any) -> np.ndarray:
        """[n, 2] on the page of points (fast, slow) [n, 2] of a panel, in its pixels."""
        pixels = np.asarray(pixels, float).reshape(-1, 2)
        if self.single:
            return pixels
        fast, slow, corner = self.axes_of(number)
        return corner + pixels[:, :1] * fast + pixels[:, 1:] * slow

    def axes_of(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A pixel's edges along fast and slow, and the panel's corner, on the page [2]."""
        if self.single:
            return np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.zeros(2)
        panel, across = self.detector[number], view_of(self.beam)[:2]
        width, height = panel.get_pixel_size()
        return (
            across @ panel.get_fast_axis() * width,
            across @ panel.get_slow_axis() * height,
            across @ panel.get_origin(),
        )

    def limits(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top of what is shown."""
        if self.single:
            left, right, top, bottom = self.part(self.panels[0])
            return left, right, bottom, top
        ends = np.concatenate([self.corners(number) for number in self.panels])
        (left, bottom), (right, top) = ends.min(0), ends.max(0)
        return left, right, bottom, top

    def corners(self, number: int) -> np.ndarray:
        """[4, 2]: what is shown of a panel, on the page."""
        left, right, top, bottom = self.part(number)
        return self.place(number, [(left, top), (right, top), (right, bottom), (left, bottom)])

    def pixel_edge(self) -> float:
        """Width of a pixel on the page, of the panel that is seen least obliquely."""
        return max(float(np.hypot(*self.axes_of(number)[0])) for number in self.panels)

    def aspect(self) -> float:
        """Height of a unit of the page over its width."""
        if not self.single:
            return 1.0
        width, height = self.detector[self.panels[0]].get_pixel_size()
        return height / width

    def beam_centre(self) -> np.ndarray | None:
        """[2] on the page, or None where the direct beam meets none of the panels."""
        for number in self.panels:
            panel = self.detector[number]
            try:
                pixel = np.array(panel.get_ray_intersection_px(self.beam.get_s0()))
            except RuntimeError:  # it is parallel to the panel, or goes away from it
                continue
            if not self.single and not _inside(panel, pixel[None])[0]:
                continue
            return self.place(number, pixel)[0]
        return None if self.single else np.zeros(2)  # in a gap; the page is seen along the beam


def view_of(beam: Any) -> np.ndarray:
    """Rows: right, up and along the beam, of somebody who looks from the crystal downstream."""
    along = np.array(beam.get_unit_s0())
    up = np.array([0.0, 1.0, 0.0]) if abs(along[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    right = np.cross(along, up)
    right /= np.linalg.norm(right)
    return np.array([right, np.cross(right, along), along])


def ring(panel: Any, beam: Any, d: float) -> np.ndarray:
    """[n, 2]: pixels (fast, slow) of a panel at a resolution, Angstrom; NaN between the parts
    of the ring. As dxtbx has it: with parallax where the panel corrects for that."""
    sine = beam.get_wavelength() / (2 * d)
    if sine >= 1:
        return np.empty((0, 2))
    right, up, along = view_of(beam)
    angle, turn = 2 * np.arcsin(sine), np.linspace(0, 2 * np.pi, AZIMUTHS + 1)[:, None]
    s1 = np.cos(angle) * along + np.sin(angle) * (np.cos(turn) * right + np.sin(turn) * up)
    # a ray meets the panel at x, y mm along its axes where s1 = w (origin + x fast + y slow)
    frame = np.array([panel.get_fast_axis(), panel.get_slow_axis(), panel.get_origin()])
    if abs(np.linalg.det(frame)) < 1e-9:  # the panel is seen edge on
        return np.empty((0, 2))
    x, y, w = np.linalg.solve(frame.T, s1.T)
    with np.errstate(divide="ignore", invalid="ignore"):
        mm = np.column_stack([x / w, y / w])
    size = np.array(panel.get_image_size_mm())
    near = (w > 0) & ((mm > -0.05 * size) & (mm < 1.05 * size)).all(1)
    pixels = np.full(mm.shape, np.nan)
    points = flex.vec2_double([tuple(map(float, one)) for one in mm[near]])
    pixels[near] = np.array(panel.millimeter_to_pixel(points)).reshape(-1, 2)
    pixels[~_inside(panel, pixels, 0.02 * max(panel.get_image_size()))] = np.nan
    return pixels


def _inside(panel: Any, pixels: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """bool [n]: which points lie on the panel, or within a margin of it."""
    return ((pixels > -margin) & (pixels < np.array(panel.get_image_size()) + margin)).all(-1)


def fitting_rings(page: Page) -> list[float]:
    """Resolutions, Angstrom, of rings that reach what is shown, those of the finest few."""
    found = [_inverse_d(page, number) for number in page.panels]
    low, high = min(map(np.min, found)), max(map(np.max, found))
    return [d for d in RINGS if low < 1 / d < high][-MAX_RINGS:]


def _inverse_d(page: Page, number: int) -> np.ndarray:
    """1/d, 1/Angstrom, at points all over what is shown of a panel."""
    panel, (left, right, top, bottom) = page.detector[number], page.part(number)
    width, height = panel.get_pixel_size()
    fast, slow = np.linspace(left, right, NODES) * width, np.linspace(top, bottom, NODES) * height
    rays = (
        np.array(panel.get_origin())
        + fast[:, None, None] * np.array(panel.get_fast_axis())
        + slow[None, :, None] * np.array(panel.get_slow_axis())
    )
    cosine = rays @ view_of(page.beam)[2] / np.linalg.norm(rays, axis=-1)
    return np.sqrt(np.maximum(2 - 2 * cosine, 0)) / page.beam.get_wavelength()
