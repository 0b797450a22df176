"""A command line of nanoBragg.c understood: its flags, and what follows from them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.beam_sources import MAX_SOURCES
from nanobragg_plugin.adapters.classic import steps
from nanobragg_plugin.adapters.classic.cell import Cell, cell_of, lengths_of
from nanobragg_plugin.adapters.classic.differs import differs
from nanobragg_plugin.adapters.classic.flags import parse
from nanobragg_plugin.adapters.classic.geometry import Geometry, geometry_of
from nanobragg_plugin.adapters.classic.header import header_of
from nanobragg_plugin.adapters.classic.idle import idle
from nanobragg_plugin.adapters.classic.settings import Settings, settings_of
from nanobragg_plugin.sources import Grid, Spread

#: Flag, variable, factor to the flag's unit, least and largest value of it.
RANGES = (
    ("-lambda", "wavelength", 1e10, 1e-4, 1e4, "Angstrom"),
    ("-pixel", "pixel", 1e3, 1e-6, 1e4, "mm"),
)
#: The same of the detector's distance, mm, and of the edges of the cell, Angstrom.
DISTANCES, EDGES = (1e-4, 1e8), (0.1, 1e5)
#: Most steps along each axis.
MOST_STEPS = {
    "-oversample": 10_000,
    "-phisteps": 1_000_000,
    "-hdivsteps": 10_000,
    "-vdivsteps": 10_000,
    "-dispsteps": 100_000,
    "-detector_thicksteps": 10_000,
    "-mosaic_dom": 1_000_000,
}


@dataclass(frozen=True)
class Translated:
    """A command line and what it means.

    mask: bool [slow, fast], True where a pixel is simulated, or None; roi: first and last fast,
    first and last slow pixel; phi, spread: the grids of the sampling; sensor: thickness of a layer,
    m, number of layers, and absorption, 1/m; mosaic: spread, radians, and number of domains; seed:
    of the noise.
    """

    settings: Settings
    geometry: Geometry
    cell: Cell
    phi: Grid
    spread: Spread
    sensor: tuple[float, int, float]
    mosaic: tuple[float, int]
    ncells: tuple[int, int, int]
    oversample: int
    fluence: float
    seed: int
    mask: np.ndarray | None
    roi: tuple[int, int, int, int]

    @property
    def n_pixels(self) -> int:
        """How many pixels are simulated."""
        first_f, last_f, first_s, last_s = self.roi
        if self.mask is None:
            return (last_f - first_f + 1) * (last_s - first_s + 1)
        return int(self.mask[first_s : last_s + 1, first_f : last_f + 1].sum())


def translate(words: Sequence[str]) -> Translated:
    """Understand a command line; `Sorry` says what is wrong with it."""
    given = parse(words)
    header, mask = header_of(given)
    s = settings_of(given, header)
    _check_ranges(s)
    geometry = geometry_of(s)
    # of a detector along the beam only this one is finite
    _check_range("-distance", geometry.close_distance * 1e3, *DISTANCES, "mm")
    seed = int(time.time()) if s.seed is None else s.seed
    if s.misset_seed is None:
        s.misset_seed = seed
    cell = cell_of(s, s.misset_seed)
    edges = lengths_of(cell.real)
    for edge in edges:
        what = "an edge of the cell" + (f" of {s.matrix}, a matrix of mosflm?," if s.matrix else "")
        _check_range(what, float(edge) * 1e10, *EDGES, "Angstrom")
    ncells = steps.ncells_of(s, edges)
    longest = float(max(edges * ncells))
    if mask is not None and mask.shape != (geometry.n_slow, geometry.n_fast):
        raise Sorry(
            f"the mask {s.mask} has {mask.shape[1]} x {mask.shape[0]} pixels (fast x slow), the "
            f"detector {geometry.n_fast} x {geometry.n_slow}: leave out -detpixels and the like"
        )
    _check(s)
    phi = steps.phi_grid(s)
    if given[-1].name == "-curved_det":
        s.warnings.append("nanoBragg.c passes over a -curved_det that is its last word")
    translated = Translated(
        s,
        geometry,
        cell,
        phi,
        steps.spread_of(s),
        steps.sensor_of(s),
        steps.mosaic_of(s),
        ncells,
        steps.oversample_of(s, longest, geometry.distance),
        _fluence(s),
        seed,
        mask,
        _roi(s, geometry),
    )
    _check_steps(translated)
    s.warnings += differs(s, phi)
    if not translated.n_pixels:
        raise Sorry(f"the mask {s.mask} leaves no pixel to simulate: it is 0 in all of them")
    return translated


def _check_ranges(s: Settings) -> None:
    for flag, variable, factor, least, largest, unit in RANGES:
        _check_range(flag, getattr(s, variable) * factor, least, largest, unit)


def _check_range(name: str, value: float, least: float, largest: float, unit: str) -> None:
    """`Sorry` for what no camera has, of a flag or of the header of an image."""
    if not least <= value <= largest:
        where = " (or the header of -img or -mask)" if name.startswith("-") else ""
        raise Sorry(f"{name}{where} is {value:g} {unit}: give {least:g} to {largest:g}")


def _check_steps(t: Translated) -> None:
    spread = t.spread
    counts = (t.oversample, t.phi.count, spread.horizontal.count, spread.vertical.count)
    counts += (spread.dispersion.count, t.sensor[1], t.mosaic[1])
    for (flag, most), count in zip(MOST_STEPS.items(), counts):
        if count > most:
            raise Sorry(f"{flag}: {count} steps are asked for, {most} are possible")
    sources = counts[2] * counts[3] * counts[4]
    if sources > MAX_SOURCES:
        raise Sorry(
            f"divergence and dispersion make {sources} sources, {MAX_SOURCES} are possible: "
            "lower -hdivsteps, -vdivsteps or -dispsteps"
        )


def _check(s: Settings) -> None:
    """`Sorry` for flags that cannot go together, a warning for those that do nothing."""
    if s.hkl is None and s.dump is None and s.default_F == 0:
        raise Sorry("there are no structure factors: give -hkl FILE, -dump FILE or -default_F")
    parity = s.phi_carryover_mode == "c-parity"
    if s.kernel == "sparse" and (steps.interpolates(s) or s.water or (parity and s.d_min > 0)):
        raise Sorry(
            "-kernel sparse is for images without interpolation and -water, and without -dmin in "
            "c-parity: leave it out"
        )
    if s.thickness > 0 and s.mu == 0:
        raise Sorry(
            "-detector_abs inf with -detector_thick: a sensor that absorbs nothing sees nothing; "
            "leave one of them out"
        )
    s.warnings += idle(s)


def _fluence(s: Settings) -> float:
    """photons/m^2: of the flux where one is given."""
    if s.flux:
        return s.flux * s.exposure / s.beamsize / s.beamsize
    if s.fluence <= 0:
        raise Sorry("-fluence 0: without photons there is no image")
    return s.fluence


def _roi(s: Settings, g: Geometry) -> tuple[int, int, int, int]:
    """The region of interest within the detector; a bound below 0 is the edge."""
    low_f, high_f, low_s, high_s = s.roi or (-1, -1, -1, -1)
    roi = (
        max(low_f, 0),
        min(high_f, g.n_fast - 1) if high_f >= 0 else g.n_fast - 1,
        max(low_s, 0),
        min(high_s, g.n_slow - 1) if high_s >= 0 else g.n_slow - 1,
    )
    if roi[0] > roi[1] or roi[2] > roi[3]:
        raise Sorry(
            f"-roi {' '.join(map(str, s.roi))} holds no pixel of the {g.n_fast} x {g.n_slow}: "
            "give first and last fast, first and last slow pixel, from 0"
        )
    return roi
