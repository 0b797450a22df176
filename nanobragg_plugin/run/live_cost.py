"""What an image of a live file would cost, bounded before anything is rendered."""

from __future__ import annotations

import math
import os
from typing import Any

from libtbx import Auto
from libtbx.utils import Sorry

from nanobragg_plugin import sampling
from nanobragg_plugin.adapters import sampling_phil
from nanobragg_plugin.adapters.live_list import MAX_IMAGES, MAX_PIXELS
from nanobragg_plugin.adapters.params import Core

#: The environment variable that says how many steps an image may take, and its default: minutes.
LIMIT, STEPS = "NANOBRAGG_LIVE_MAX_STEPS", 1e11
#: Reflections as far as the detector's corners reach.
MAX_REFLECTIONS = 1e8
#: Pixels along an edge of a panel.
MAX_EDGE = 100_000


def limit() -> float:
    """Steps that an image may take."""
    text = os.environ.get(LIMIT, "")
    try:
        value = float(text) if text.strip() else STEPS
    except ValueError:
        value = math.nan
    if not value > 0:
        raise Sorry(f"the environment variable {LIMIT}={text}: give a number of steps, as 1e11")
    return value


def check_asked(params: Any, live: str) -> None:
    """`Sorry` for more images or pixels than any experiment has, by the parameters alone."""
    first, last = params.geometry.scan.image_range or (1, 1)
    _check(last - first + 1, MAX_IMAGES, "images", live)
    _check(params.stills.count or 1, MAX_IMAGES, "stills", live)
    sizes = [panel.image_size for panel in params.geometry.detector.panel if panel.image_size]
    _check_pixels(sizes, live)


def check_models(experiments: list[Any], live: str) -> None:
    """`Sorry` for more images or pixels than any experiment has."""
    for experiment in experiments:
        _check_pixels([panel.get_image_size() for panel in experiment.detector or ()], live)
        if experiment.scan is not None:
            _check(experiment.scan.get_num_images(), MAX_IMAGES, "images", live)


def _check_pixels(sizes: list[Any], live: str) -> None:
    _check(sum(fast * slow for fast, slow in sizes), MAX_PIXELS, "pixels", live)
    _check(max((max(size) for size in sizes), default=0), MAX_EDGE, "pixels along an edge", live)


def steps(core: Core, params: Any) -> float:
    """Steps of an image of one crystal: pixels x steps of a pixel x sizes of domains; diffuse
    scattering and the calculation of amplitudes apart."""
    pixels = sum(panel.shape[0] * panel.shape[1] for panel in core.experiment.panels)
    sizes = 5 if params.crystal.domain_size_spread_percent else 1
    a_pixel = sampling.steps_per_pixel(core.experiment, core.options, core.phisteps)
    halos = 0
    if core.experiment.crystal.diffuse is not None:
        halos = (2 * params.crystal.diffuse.stencil + 1) ** 3 * core.phisteps
    return float(pixels) * (sizes * a_pixel + halos)


def check(cores: list[Core], params: Any, live: str) -> float:
    """Steps of an image of these crystals; `Sorry` for more than the limit, or for too many
    reflections."""
    total = sum(steps(core, params) for core in cores)
    for core in cores:
        sampling_phil.check_size(core.options, core.phisteps, core.experiment)
    most = limit()
    if total > most:
        raise Sorry(
            f"{live}: an image would take {total:.2g} steps (pixels x sub-pixels x layers x "
            f"sources x phi steps x domains), more than {most:.2g}: ask for less (sampling, "
            "crystal.mosaic), or, if you trust who made the file, set the environment variable "
            f"{LIMIT}={total:.1e}"
        )
    _check_reflections(cores[0], params, live)
    return total


def _check_reflections(core: Core, params: Any, live: str) -> None:
    """`Sorry` where amplitudes would be made for too many reflections."""
    q_max = sampling.q_max(core.experiment.panels, core.experiment.beam)
    given = params.structure_factors.d_min
    if given not in (None, Auto):
        q_max = min(q_max, 1 / given)
    volume = core.dxtbx_experiment.crystal.get_unit_cell().volume()
    groups = len(core.experiment.beam.weight)
    groups = groups if params.structure_factors.model.wavelength is Auto else 1
    _check(4 / 3 * math.pi * volume * q_max**3 * groups, MAX_REFLECTIONS, "reflections", live)


def _check(value: float, most: float, what: str, live: str) -> None:
    if not value <= most:
        raise Sorry(f"{live} asks for {value:.3g} {what}, more than the {most:.0e} of a live file")
