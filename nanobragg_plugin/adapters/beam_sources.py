"""The sources of the PHIL scope `beam`: divergence, dispersion, or a list in a file."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from libtbx import Auto
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.spectrum import Spectrum
from nanobragg_plugin.adapters.strangers import read_text
from nanobragg_plugin.models import Beam
from nanobragg_plugin.sources import Grid, Spread, with_list, with_spread

logger = logging.getLogger("dials.nanobragg_plugin.adapters.beam_sources")

#: Steps across a divergence or dispersion whose number is not given.
STEPS = 5
#: What separates the columns of a list of sources, besides white space (nanoBragg.c).
SEPARATORS = str.maketrans(",;:!", "    ")
#: m; a wavelength above it was not given in metres.
LONGEST = 1e-7
#: Sources above which a run would not end: a slip of the pen.
MAX_SOURCES = 10**6
#: Bytes of a list of them.
MAX_LIST = 1 << 27


def with_sources(beam: Beam, params: Any, spectrum: Spectrum | None = None) -> Beam:
    """The beam as the sources that the extracted scope describes, each direction with every line
    of the spectrum if there is one; as it is without any."""
    spread = spread_of(params, 1 if spectrum is None else len(spectrum.energies))
    if spectrum is not None and (params.source_file or spread.dispersion.width > 0):
        raise Sorry(
            "beam.spectrum and beam.dispersion_percent or beam.source_file both say which "
            "wavelengths there are: leave away one of them"
        )
    if not spread.directions:
        raise Sorry(
            "no direction of the divergence is left within its ellipse: give 2 or more of "
            "beam.hdivsteps and beam.vdivsteps, or beam.round_div=False"
        )
    if spectrum is not None:
        return with_spread(beam, spread, spectrum.lines)
    if params.source_file is None:
        return beam if spread == Spread(round=spread.round) else with_spread(beam, spread)
    if spread != Spread(round=spread.round):
        raise Sorry(
            "beam.source_file lists the sources: leave away the divergence and the dispersion "
            "(beam.hdivrange_mrad, beam.vdivrange_mrad, beam.dispersion_percent)"
        )
    if len(beam.direction) > 1 or len(beam.wavelength) > 1:
        raise Sorry(
            "beam.source_file gives one list of directions, but the beam model varies over the "
            "scan: give an experiment list with a static beam"
        )
    listed = with_list(beam, *read_sources(params.source_file, beam))
    _check_directions(params.source_file, beam, listed)
    return listed


def _check_directions(name: str, beam: Beam, listed: Beam) -> None:
    """A warning of sources that are not upstream of the crystal; `Sorry` for one that lies along
    the E vector, which has no polarization."""
    directions = listed.direction[0]
    axis = beam.polarization_axis.expand_as(directions)
    if bool((torch.linalg.cross(directions, axis).norm(dim=-1) < 1e-9).any()):
        raise Sorry(f"{name}: a source lies along the beam's E vector; move it")
    behind = int((directions @ beam.direction[0, 0] <= 0).sum())
    if behind:
        logger.warning(
            "WARNING: %d of the %d sources of %s are not upstream of the crystal: X Y Z is the way "
            "from the crystal to the source, against the beam",
            *(behind, len(directions), name),
        )


def spread_of(params: Any, lines: int = 1) -> Spread:
    """Divergence and dispersion of the extracted scope; lines: wavelengths of the spectrum."""
    grids = (
        _grid(params, "hdivrange_mrad", "hdivsteps", "hdivstep_mrad", 1e-3),
        _grid(params, "vdivrange_mrad", "vdivsteps", "vdivstep_mrad", 1e-3),
        _grid(params, "dispersion_percent", "dispsteps", "dispstep_percent", 1e-2),
    )
    number = lines * math.prod(grid.count for grid in grids)
    if number > MAX_SOURCES:
        raise Sorry(
            f"divergence and dispersion make {number} sources, more than {MAX_SOURCES}: give fewer "
            "steps (beam.hdivsteps, beam.vdivsteps, beam.dispsteps), or larger ones, or less of "
            "beam.spectrum.samples"
        )
    if grids[2].width >= 2:
        raise Sorry(
            f"beam.dispersion_percent={params.dispersion_percent:g}: the shortest wavelength would "
            "not be positive; it is the full width, below 200"
        )
    return Spread(*grids, params.round_div)


def _grid(params: Any, width: str, count: str, step: str, unit: float) -> Grid:
    full, steps, size = (getattr(params, name) for name in (width, count, step))
    if full == 0:
        if steps is not Auto or size is not None:
            raise Sorry(f"beam.{count} and beam.{step} need a range: give beam.{width}")
        return Grid()
    if size is None:
        steps = STEPS if steps is Auto else steps
        if steps < 2:
            raise Sorry(
                f"beam.{count}={steps}: a range of {full:g} has two ends; give 2 steps or more"
            )
        return Grid(full * unit, full * unit / (steps - 1), steps)
    if size <= 0:
        raise Sorry(f"beam.{step}={size:g}: it must be positive")
    # to both ends, where the step divides the range
    steps = math.floor(full / size + 1e-9) + 1 if steps is Auto else steps
    return Grid(full * unit, size * unit, steps)


def read_sources(name: str, beam: Beam) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions [n, 3], wavelengths [n] Angstrom and weights [n] of nanoBragg.c's list of sources.

    A line: X Y Z, the way from the crystal to the source in any unit, then its weight and its
    wavelength in metres; what is missing at a line's end is as the beam has it (and weight 1).
    `#` starts a comment.
    """
    text = read_text(name, "a list of sources", MAX_LIST)
    back = (-10 * beam.direction[0, 0]).tolist()
    defaults = [*back, 1.0, float(beam.wavelength[0, 0]) * 1e-10]
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].translate(SEPARATORS).split()
        if words:
            rows.append(_row(f"line {number} of {name}", words, defaults))
    if not rows:
        raise Sorry(f"{name} lists no sources: a line each, X Y Z weight wavelength (m)")
    table = torch.tensor(rows, dtype=torch.float64)
    return table[:, :3], table[:, 4] * 1e10, table[:, 3]


def _row(where: str, words: list[str], defaults: list[float]) -> list[float]:
    """X, Y, Z, weight, wavelength."""
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise Sorry(f"{where}: {' '.join(words)!r} are not numbers") from error
    if len(values) > 5 or not all(map(math.isfinite, values)):
        raise Sorry(f"{where}: give X Y Z weight wavelength, finite numbers, not {len(values)}")
    x, y, z, weight, wavelength = values + defaults[len(values) :]
    if x == y == z == 0:
        raise Sorry(f"{where}: the source is at the crystal; give the way to it, X Y Z")
    if weight <= 0:
        raise Sorry(f"{where}: the weight is {weight:g}; it must be positive")
    if not 0 < wavelength < LONGEST:
        raise Sorry(f"{where}: the wavelength is {wavelength:g} m; give it in metres, as 1e-10")
    return [x, y, z, weight, wavelength]
