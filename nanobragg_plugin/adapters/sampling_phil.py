"""The PHIL scope `sampling`: how finely an image is sampled, and which of its pixels."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from libtbx import Auto
from libtbx.utils import Sorry

from nanobragg_plugin import sampling
from nanobragg_plugin.adapters import checks
from nanobragg_plugin.adapters.phil_values import positive, word
from nanobragg_plugin.constants import RTD
from nanobragg_plugin.models import Beam, Experiment, Layers, Panel, SimulationOptions

#: Steps of a pixel, and of one of its samples (phi x domains, which are in memory together), above
#: which a run would not end: a slip of the pen.
MAX_STEPS, MAX_SIMULTANEOUS = 10**9, 10**7


def phisteps_of(params: Any, experiment: Experiment, scan: Any, spread: float) -> int:
    """phi steps of an image of a crystal of mosaic spread, radians; 1 of a still."""
    given, step = params.sampling.phisteps, params.sampling.phistep_deg
    if not checks.is_rotation(scan):
        if given not in (Auto, 1) or step is not None:
            raise Sorry(
                "sampling.phisteps and sampling.phistep_deg are for images that turn: a still has "
                "one phi; leave them out"
            )
        return 1
    width = scan.get_oscillation()[1] / RTD
    if step is not None and step * width <= 0:
        raise Sorry(
            f"sampling.phistep_deg={step:g}: it must go the way of the scan, whose images are "
            f"{width * RTD:g} degrees"
        )
    if given is not Auto:
        return given
    if step is not None:
        return max(1, math.ceil(width / (step / RTD) - 1e-9))
    return sampling.auto_phisteps(experiment, spread, width)


def options_of(params: Any, experiment: Experiment) -> SimulationOptions:
    """How to sample."""
    given = params.sampling
    if given.thickstep_mm is not None:
        positive(given.thickstep_mm, "sampling.thickstep_mm")
    layers: list[Layers | None] = [
        sampling.sensor_layers(
            panel,
            None if given.thicksteps is Auto else given.thicksteps,
            given.thick_sampling,
            given.thickstep_mm,
            given.thick_capture,
        )
        for panel in experiment.panels
    ]
    if given.thick_capture == "last" and given.oversample_thick:
        raise Sorry(
            "sampling.thick_capture=last is what nanoBragg.c does without -oversample_thick: give "
            "sampling.oversample_thick=False too"
        )
    oversample = given.oversample
    if oversample is Auto:
        oversample = sampling.classic_oversample(experiment)
    options = SimulationOptions(
        oversample=oversample,
        subpixels=word(given.subpixels),
        layers=tuple(layers),
        oversample_omega=given.oversample_omega,
        oversample_polar=given.oversample_polar,
        oversample_thick=given.oversample_thick,
        point_pixel=given.point_pixel,
        phi_carryover_mode=given.phi_carryover_mode,
        precision=params.compute.precision,
        batch_steps=params.compute.batch_steps,
        tolerance=params.compute.tolerance,
        kernel=word(params.compute.kernel),
        compile=word(params.compute.compile),
        d_min=given.d_min or 0.0,
        interpolate=params.structure_factors.interpolate,
        water_c_um=params.background.water_c,
    )
    refusal = sampling.why_not_sparse(experiment, options)
    if options.kernel == "sparse" and refusal is not None:
        raise Sorry(
            f"compute.kernel=sparse can leave nothing out: {refusal}; use compute.kernel=auto"
        )
    return options


def _axes(options: SimulationOptions, phisteps: int, experiment: Experiment) -> tuple[str, int]:
    """The axes of the samples of a pixel in words, and how many steps they make."""
    layers = max(len(layers.edges) - 1 if layers else 1 for layers in options.layers)
    domains, sources = len(experiment.crystal.umats), len(experiment.beam.weight)
    words = (
        f"{options.oversample} x {options.oversample} sub-pixels, {layers} sensor layers, "
        f"{sources} sources, {phisteps} phi steps, {domains} mosaic domains"
    )
    return words, sampling.steps_per_pixel(experiment, options, phisteps)


def check_size(options: SimulationOptions, phisteps: int, experiment: Experiment) -> None:
    """`Sorry` for so many steps that a run would neither end nor fit into memory."""
    words, steps = _axes(options, phisteps, experiment)
    if steps > MAX_STEPS or phisteps * len(experiment.crystal.umats) > MAX_SIMULTANEOUS:
        raise Sorry(
            f"every pixel would take {steps:.3g} steps: {words}; give less of them "
            "(sampling.oversample, sampling.phisteps ...), or a smaller domain "
            "(crystal.Ncells_abc), which needs less sub-pixels"
        )


def sampling_note(options: SimulationOptions, phisteps: int, experiment: Experiment) -> str:
    words, steps = _axes(options, phisteps, experiment)
    return f"Sampling: {words}: {steps} samples a pixel"


def curved(panels: tuple[Panel, ...], beam: Beam) -> tuple[Panel, ...]:
    """The panels as nanoBragg.c's curved detector."""
    along = beam.direction[:, 0].mean(0)
    along = along / torch.linalg.vector_norm(along)
    if along[0] < 0.5:
        raise Sorry(
            "sampling.curved_detector is nanoBragg.c's, whose beam is along x: it has no meaning "
            f"for a beam along {', '.join(f'{x:.3g}' for x in along.tolist())}"
        )
    if any(abs(float(along @ panel.normal)) < 1e-6 for panel in panels):
        raise Sorry(
            "sampling.curved_detector: a panel lies along the beam, which never meets it; turn it"
        )
    return tuple(
        dataclasses.replace(
            panel, curved=along * (panel.origin @ panel.normal) / (along @ panel.normal)
        )
        for panel in panels
    )


def with_roi(masks: list[Any], roi: list[list[int]], detector: Any) -> list[Any]:
    """The masks, and of panels that have regions of interest nothing but these."""
    regions = [region for region in roi or [] if region]
    if not regions:
        return masks
    inside = [torch.zeros(*reversed(p.get_image_size()), dtype=torch.bool) for p in detector]
    for region in regions:
        first_fast, last_fast, first_slow, last_slow, *number = region
        panel = number[0] if number else 0
        if not 0 <= panel < len(detector):
            raise Sorry(f"sampling.roi={region}: there is no panel {panel}")
        n_fast, n_slow = detector[panel].get_image_size()
        if not (0 <= first_fast <= last_fast < n_fast and 0 <= first_slow <= last_slow < n_slow):
            raise Sorry(
                f"sampling.roi={region} is not within panel {panel} of {n_fast} x {n_slow} "
                "pixels (fast, slow): give first and last fast, first and last slow, from 0"
            )
        inside[panel][first_slow : last_slow + 1, first_fast : last_fast + 1] = True
    return [
        region.numpy() if mask is None else (torch.as_tensor(_array(mask)) & region).numpy()
        for mask, region in zip(masks, inside)
    ]


def _array(mask: Any) -> Any:
    return mask.as_numpy_array() if hasattr(mask, "as_numpy_array") else mask
