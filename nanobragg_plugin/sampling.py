"""How finely to sample, where the user leaves it open."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nanobragg_plugin.cell import edges
from nanobragg_plugin.constants import GAUSS_WIDTH_SQR
from nanobragg_plugin.geometry import lab_position, unit
from nanobragg_plugin.models import Beam, Crystal, Experiment, Layers, Panel, SimulationOptions

#: sigma of a gauss domain's spot in units of 1/(N a): F_latt^2 is exp(-2 (N dh)^2/0.63).
SPOT_SIGMA = math.sqrt(GAUSS_WIDTH_SQR) / 2
#: Bounds of the automatic number of phi steps in an image.
PHISTEPS = (2, 50)
#: Absorption lengths of sensor that the automatic number of layers considers.
ABSORPTION_LENGTHS = 4.0


def corner_directions(panel: Panel) -> Tensor:
    """Unit vectors [4, 3] from the crystal to a panel's corners."""
    n_fast, n_slow = panel.image_size
    like = panel.origin
    slow = torch.tensor([0, 0, n_slow, n_slow], dtype=like.dtype, device=like.device)
    fast = torch.tensor([0, n_fast, 0, n_fast], dtype=like.dtype, device=like.device)
    return unit(lab_position(panel, slow, fast))[0]


def q_max(panels: tuple[Panel, ...], beam: Beam) -> float:
    """1/d_min, 1/Angstrom, of the corner that scatters farthest; 2/wavelength, the most there is,
    of a detector that reaches beyond 2theta = 90 degrees."""
    s0, wavelength = beam.direction.reshape(-1, 3), beam.wavelength.min()
    corners = torch.cat([corner_directions(panel) for panel in panels]).to(s0)
    cosine = (corners @ s0.T).min().clamp(-1, 1)
    if cosine < 0:  # backwards the farthest point may lie inside a panel
        return float(2 / wavelength)
    return float(torch.sqrt(2 - 2 * cosine) / wavelength)


def domain_edges(crystal: Crystal) -> Tensor:
    """Edges of a mosaic domain, Angstrom, [3]."""
    return edges(crystal.A[0]) * crystal.Ncells_abc


def streak_step(experiment: Experiment) -> float:
    """How far apart neighbouring wavelengths of the beam put a spot, at most, at the detector's
    corner, in units of the spot's FWHM or of the nearest panel's pixel, whichever is larger: above
    1 the streaks of a spectrum are beads."""
    wavelengths = torch.unique(experiment.beam.wavelength[0])
    if len(wavelengths) == 1:
        return 0.0
    step = float(wavelengths.diff().max() / wavelengths.mean())
    fwhm = math.sqrt(8 * math.log(2)) * SPOT_SIGMA / float(domain_edges(experiment.crystal).max())
    pixel = max(
        float(panel.pixel_size.min() / (panel.origin * panel.normal).sum())
        for panel in experiment.panels
    ) / float(wavelengths.mean())
    return step * q_max(experiment.panels, experiment.beam) / max(fwhm, pixel)


def classic_oversample(experiment: Experiment) -> int:
    """nanoBragg.c's `recommended_oversample`: ceil(3 largest domain edge pixel/(wavelength
    distance)), with the nearest panel's distance."""
    finest = max(
        float(panel.pixel_size.max() / (panel.origin * panel.normal).sum())
        for panel in experiment.panels
    )
    edge = float(domain_edges(experiment.crystal).max())
    return max(1, math.ceil(3 * edge * finest / float(experiment.beam.wavelength.min())))


def auto_phisteps(experiment: Experiment, spread: float, width: float) -> int:
    """phi steps of an image of `width` radians: half the rocking curve's sigma at the corner of
    the detector, of a crystal of `spread` radians."""
    size = SPOT_SIGMA / float(domain_edges(experiment.crystal).max())
    sigma = math.hypot(spread, size / q_max(experiment.panels, experiment.beam))
    low, high = PHISTEPS
    return min(high, max(low, math.ceil(2 * abs(width) / sigma)))


def sensor_layers(
    panel: Panel,
    thicksteps: int | None,
    sampling: str,
    thickstep: float | None = None,
    capture: str = "layer",
) -> Layers | None:
    """The layers of a panel's sensor; None of a panel that has none, or for 0 thicksteps.

    thicksteps None chooses so many that an oblique ray's path through one spans under half a
    pixel; thickstep, mm, overrides the thickness of a layer, thickness/thicksteps (nanoBragg.c
    has thickness/(thicksteps - 1)).
    """
    thickness, mu = float(panel.thickness), float(panel.mu)
    if thicksteps == 0 or thickness <= 0 or mu <= 0:
        return None
    if thicksteps is None:
        cosine = float((corner_directions(panel) @ panel.normal).abs().min().clamp(min=0.1))
        deep = min(thickness, ABSORPTION_LENGTHS * cosine / mu)
        spread = deep * math.sqrt(1 - cosine**2) / cosine
        thicksteps = max(1, math.ceil(2 * spread / float(panel.pixel_size.min())))
    counts = torch.arange(thicksteps + 1, dtype=panel.thickness.dtype, device=panel.mu.device)
    step = panel.thickness / thicksteps if thickstep is None else thickstep
    return Layers(counts * step, sampling, capture)


def steps_per_pixel(experiment: Experiment, options: SimulationOptions, phisteps: int) -> int:
    """Sub-pixels x sensor layers (of the panel that has most) x sources x phi steps x domains."""
    panels = range(len(experiment.panels))
    layers = max(len(of.edges) - 1 if of else 1 for of in map(options.layers_of, panels))
    domains, sources = len(experiment.crystal.umats), len(experiment.beam.weight)
    return options.oversample**2 * layers * sources * phisteps * domains


def why_not_sparse(experiment: Experiment, options: SimulationOptions) -> str | None:
    """Why the sparse kernel cannot leave anything out; None: it can. Cubic polynomials overshoot
    the amplitudes that bound them, and water lights every pixel."""
    crystal = experiment.crystal
    if options.tolerance <= 0:
        return "the tolerance is 0"
    if options.interpolate:
        return "the structure factors are interpolated, and nothing bounds them"
    if options.water_c_um > 0:
        return "the background of water lights every pixel"
    if options.phi_carryover_mode == "c-parity" and options.d_min > 0:
        return "c-parity must know which sample is the first within d_min"
    if crystal.xtal_shape != "square" and not float(crystal.fudge) > 0:
        return "spots without a fudge factor above 0 have no end"
    return None
