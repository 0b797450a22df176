"""How many steps nanoBragg.c takes along each axis of sampling ("default sampling logic")."""

from __future__ import annotations

import math

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.classic.settings import Settings
from nanobragg_plugin.constants import RTD
from nanobragg_plugin.sources import Grid, Spread

#: Domains where there is a spread and no number is given.
MOSAIC_DOMAINS = 10


def grid(width: float | None, step: float | None, count: int) -> Grid:
    """Range, step and number of a divergence or dispersion, of which any may be missing (None; 0
    or less of the number)."""
    if count > 0 and width is None and not step:
        width, step = 1.0, 1.0 / count
    elif width is None:
        width, count = step or 0.0, 2
    elif not step:
        count = max(count, 2)
        step = width / (count - 1)
    elif count <= 0:
        count = math.ceil(width / step)
    if not width or not step or count <= 0:
        return Grid()
    return Grid(width, step, count)


def spread_of(s: Settings) -> Spread:
    """Divergence and dispersion."""
    for axis in "hv":
        width, step, count = (getattr(s, f"{axis}div{name}") for name in ("range", "step", "steps"))
        if count > 0 and width is None and not step and s.sources is None:
            s.warnings.append(
                f"-{axis}divsteps {count} without -{axis}divrange: the divergence is 1 radian, "
                "from half a radian to one side, as in nanoBragg.c"
            )
    return Spread(
        grid(s.hdivrange, s.hdivstep, s.hdivsteps),
        grid(s.vdivrange, s.vdivstep, s.vdivsteps),
        grid(s.dispersion, None, s.dispsteps),
        s.round_div,
    )


def phi_grid(s: Settings) -> Grid:
    """Width of the image, step and number of steps of phi, radians."""
    width, step, count = s.osc, s.phistep, s.phisteps
    if count == 0:
        count = 1
    if width is None:
        if step:  # whatever the number
            return Grid(step, step, 2)
        return Grid(0.0, 0.0, 1) if count < 0 else Grid(1 / RTD, 1 / RTD / count, count)
    if count < 0 and step and not width:
        raise Sorry("-osc 0 with -phistep makes no step of phi: leave one of them out")
    if count < 0:
        return Grid(width, step, math.ceil(width / step)) if step else Grid(width, width / 2, 2)
    return Grid(width, width / count if step is None else step, count)


def sensor_of(s: Settings) -> tuple[float, int, float]:
    """Thickness of a layer, m, number of layers, and absorption, 1/m; no layers of no sensor."""
    if s.thickness <= 0:
        return 0.0, 0, 0.0
    count = max(s.thicksteps, 2)
    if s.thicksteps == 1:
        s.warnings.append("-detector_thicksteps 1: there are 2 layers, nanoBragg.c's least number")
    step = s.thickness / 2 if s.thicksteps <= 0 else s.thickness / (count - 1)
    mu = s.mu
    if mu is None:
        mu = 1 / s.thickness
        s.warnings.append(f"the attenuation depth of the sensor is its thickness, {1 / mu:g} m")
    return step, count, mu


def interpolates(s: Settings) -> bool:
    """Whether amplitudes are interpolated: unless given, where -N gives a domain of under 3 cells,
    whatever -xtalsize says."""
    return bool(s.hkl or s.dump) and (
        min(s.ncells) <= 2 if s.interpolate is None else s.interpolate
    )


def mosaic_of(s: Settings) -> tuple[float, int]:
    """Spread, radians, and number of domains."""
    if not s.mosaic_spread:
        if s.mosaic_domains > 1:
            s.warnings.append("-mosaic_domains without -mosaic: there is one domain")
        return 0.0, 1
    if s.mosaic_domains <= 0:
        s.warnings.append(f"-mosaic without -mosaic_domains: there are {MOSAIC_DOMAINS} domains")
        return s.mosaic_spread, MOSAIC_DOMAINS
    return s.mosaic_spread, s.mosaic_domains


def ncells_of(s: Settings, edges: np.ndarray) -> tuple[int, int, int]:
    """Cells of the domain along a, b, c, whose edges [3] are in m: -N, or what fills -xtalsize as
    far as the beam reaches."""
    size = list(s.size_m)
    for i in (1, 2):
        if s.beamsize < size[i]:
            s.warnings.append(
                f"the domain, {size[i] * 1e3:g} mm along {'abc'[i]}, is clipped to the beam's "
                f"{s.beamsize * 1e3:g} mm"
            )
            size[i] = s.beamsize
    cells = [
        math.ceil(length / edge) if length > 0 else n
        for length, edge, n in zip(size, edges, s.ncells)
    ]
    return tuple(max(1, int(n)) for n in cells)


def oversample_of(s: Settings, longest: float, distance: float) -> int:
    """Sub-pixels: as given, or 3 for each time that a fringe of the longest edge, m, fits."""
    recommended = max(1, math.ceil(3 * longest / (s.wavelength * distance / s.pixel)))
    if 0 < s.oversample < recommended:
        s.warnings.append(
            f"a domain of {longest * 1e10:g} A needs -oversample {recommended} or more"
        )
    return s.oversample if s.oversample > 0 else recommended
