"""PHIL parameters and dxtbx models to what the simulator needs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch
from libtbx import Auto
from libtbx.phil import parse
from libtbx.utils import Sorry

from nanobragg_plugin import mosaic, sampling
from nanobragg_plugin import phil as phil_files
from nanobragg_plugin.adapters import checks, miller, models
from nanobragg_plugin.adapters.fluence import fluence_of_images
from nanobragg_plugin.adapters.phil_values import positive
from nanobragg_plugin.cell import edges, volume
from nanobragg_plugin.constants import RTD
from nanobragg_plugin.models import Experiment, Exposure, Layers, SimulationOptions
from nanobragg_plugin.structure_factors import StructureFactors

SUBJECTS = ("structure_factors", "crystal", "beam", "sampling", "noise", "output")
#: Domains that are simulated where there is a spread and no number is given.
MOSAIC_DOMAINS = 16
#: Steps of a pixel, and of one of its samples (phi x domains, which are in memory together), above
#: which a run would not end: a slip of the pen.
MAX_STEPS, MAX_SIMULTANEOUS = 10**9, 10**7


def master_scope() -> Any:
    """Every parameter of `nanobragg.simulate`."""
    text = "\n".join(phil_files.read(name) for name in ("simulate", *SUBJECTS))
    return parse(text, process_includes=True)


def with_preset(scope: Any, name: str) -> Any:
    """The scope with a preset's values for its defaults."""
    return scope.fetch(parse(file_name=preset_file(name)))


def preset_file(name: str) -> str:
    """The PHIL file of a preset."""
    presets = phil_files.presets()
    if name not in presets:
        raise Sorry(f"there is no preset {name!r}: choose from {', '.join(presets)}")
    return str(resources.files(phil_files) / "presets" / f"{name}.phil")


@dataclass(frozen=True)
class Plan:
    """All that simulates one dxtbx experiment.

    dxtbx_experiment: the models as they will be written; experiment and structure_factors: what
    the core takes, at a fluence of 1 photon/m^2; fluences [images] photons/m^2; notes: lines
    for the log.
    """

    dxtbx_experiment: Any
    experiment: Experiment
    structure_factors: StructureFactors
    options: SimulationOptions
    phisteps: int
    phi_sampling: str
    phistep_deg: float | None
    fluences: tuple[float, ...]
    notes: tuple[str, ...]

    @property
    def n_images(self) -> int:
        """Images of this experiment; 1 of a still."""
        return len(self.fluences)

    def exposure(self, index: int) -> Exposure:
        """The phi steps of image `index`, from 0."""
        return models.exposure(
            self.dxtbx_experiment.scan,
            index,
            self.phisteps,
            self.phi_sampling,
            self.phistep_deg,
        )

    def experiment_of_image(self, index: int) -> Experiment:
        """The experiment with the fluence of image `index`."""
        fluence = self.experiment.beam.fluence * self.fluences[index]
        beam = dataclasses.replace(self.experiment.beam, fluence=fluence)
        return dataclasses.replace(self.experiment, beam=beam)


def plan(params: Any, dxtbx_experiment: Any, mask: Sequence[Any] | None = None) -> Plan:
    """Translate one dxtbx experiment and the extracted parameters; `Sorry` says what is amiss.

    mask: a bool array [slow, fast] a panel, True where good, or None.
    """
    checks.check_experiment(dxtbx_experiment)
    for scope, name in (
        (params.structure_factors, "d_min"),
        (params.structure_factors.model, "wavelength"),
    ):
        if getattr(scope, name) is not None:
            positive(getattr(scope, name), f"{scope.__phil_path__()}.{name}")
    device = torch_device(params.compute.device)
    fluences, fluence_note = fluence_of_images(params.beam, dxtbx_experiment)
    beam = models.beam(dxtbx_experiment.beam, 1.0, device)
    if not params.beam.polarization_correction:
        beam = dataclasses.replace(beam, kahn_factor=None)
    masks = [None] * len(dxtbx_experiment.detector) if mask is None else list(mask)
    panels = models.panels(
        dxtbx_experiment.detector,
        _with_roi(masks, params.sampling.roi, dxtbx_experiment.detector),
        device,
    )
    crystal, crystal_note = crystal_of(params.crystal, params.beam, dxtbx_experiment, device)
    goniometer = models.goniometer(dxtbx_experiment.goniometer, device)
    experiment = Experiment(panels, beam, goniometer, crystal)
    amplitudes, summary = miller.structure_factors_from_params(
        params.structure_factors,
        dxtbx_experiment.crystal.get_space_group().info(),
        dxtbx_experiment.crystal.get_unit_cell(),
        1 / sampling.q_max(panels, beam),
    )
    phisteps = phisteps_of(params, experiment, dxtbx_experiment.scan)
    options = options_of(params, experiment)
    result = Plan(
        dxtbx_experiment,
        experiment,
        amplitudes.to(device=device),
        options,
        phisteps,
        params.sampling.phi_sampling,
        params.sampling.phistep_deg,
        fluences,
        (fluence_note, crystal_note, str(summary), _sampling_note(options, phisteps, experiment)),
    )
    _check_size(result)
    _check_carryover(result)
    return result


def torch_device(name: str) -> torch.device:
    """The torch device of that name; `Sorry` where there is none."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        raise Sorry(
            f"compute.device={name} cannot be used here ({str(error).splitlines()[0]}); try cpu"
        ) from error
    return device


def crystal_of(params: Any, beam_params: Any, experiment: Any, device: Any) -> tuple[Any, str]:
    """The core's crystal, and a line for the log."""
    a_matrix = models.crystal_orientation(experiment.crystal)[0]
    ncells = [float(n) for n in params.Ncells_abc]
    if params.domain_size_ang is not None:
        ncells = [max(1.0, round(params.domain_size_ang / float(e))) for e in edges(a_matrix)]
    spread, domains = params.mosaic.spread_deg, params.mosaic.domains
    if domains is Auto:
        domains = MOSAIC_DOMAINS if spread > 0 else 1
    if spread == 0 and domains > 1:
        raise Sorry(
            f"crystal.mosaic.domains={domains} without crystal.mosaic.spread_deg: all domains "
            "would be alike; give the spread"
        )
    umats = None
    if spread > 0:
        seed = mosaic_seed(params.mosaic)
        radians = torch.tensor(spread / RTD, dtype=torch.float64)
        umats = mosaic.mosaic_umats(radians, domains, params.mosaic.distribution, seed)
    spot_scale, how = spot_scale_of(params, beam_params, ncells, float(volume(a_matrix)))
    options = models.CrystalOptions(
        ncells,
        params.xtal_shape,
        positive(params.fudge, "crystal.fudge"),
        spot_scale,
        umats,
        params.mosaic.frame,
    )
    note = (
        f"Crystal: {params.xtal_shape} domains of {' x '.join(f'{n:g}' for n in ncells)} cells, "
        f"{spot_scale:.4g} in the beam ({how}); mosaic spread {spread:g} degrees in {domains} "
        "orientations"
    )
    return models.crystal(experiment.crystal, options, device), note


def mosaic_seed(params: Any) -> int:
    """The seed of the domains' orientations; params: the PHIL scope crystal.mosaic, extracted."""
    if params.seed is not None:
        return params.seed
    return mosaic.CLASSIC_SEED if params.distribution == "cap" else 0


def spot_scale_of(
    params: Any, beam_params: Any, ncells: list[float], cell_volume: float
) -> tuple[float, str]:
    """Domains in the beam, and where the figure came from."""
    if params.size_mm is not None:
        positive(params.size_mm, "crystal.size_mm")
    if params.spot_scale is not None:
        return positive(params.spot_scale, "crystal.spot_scale"), "as given"
    if params.size_mm is None:
        return 1.0, "a single domain: no crystal.size_mm"
    size = list(params.size_mm)
    if beam_params.beamsize_mm:
        beam_size = positive(beam_params.beamsize_mm, "beam.beamsize_mm")
        size[:2] = [min(size[0], beam_size[0]), min(size[1], beam_size[-1])]
    domain = math.prod(ncells) * cell_volume  # Angstrom^3; 1 mm is 1e7 Angstrom
    scale = math.prod(size) * 1e21 / domain
    return scale, f"{size[0]:g} x {size[1]:g} x {size[2]:g} mm^3 illuminated"


def phisteps_of(params: Any, experiment: Experiment, scan: Any) -> int:
    """phi steps of an image; 1 of a still."""
    given, step = params.sampling.phisteps, params.sampling.phistep_deg
    if not checks.is_rotation(scan):
        if given not in (Auto, 1) or step is not None:
            raise Sorry(
                "sampling.phisteps and sampling.phistep_deg are for images that turn: a still has "
                "one phi; leave them away"
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
    return sampling.auto_phisteps(experiment, params.crystal.mosaic.spread_deg / RTD, width)


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
    return SimulationOptions(
        oversample=oversample,
        layers=tuple(layers),
        oversample_omega=given.oversample_omega,
        oversample_polar=given.oversample_polar,
        oversample_thick=given.oversample_thick,
        point_pixel=given.point_pixel,
        phi_carryover_mode=given.phi_carryover_mode,
        precision=params.compute.precision,
        batch_steps=params.compute.batch_steps,
        tolerance=params.compute.tolerance,
    )


def _steps(options: SimulationOptions, phisteps: int, experiment: Experiment) -> tuple[int, int]:
    """Sensor layers, and steps of a pixel."""
    layers = max(len(layers.edges) - 1 if layers else 1 for layers in options.layers)
    domains = len(experiment.crystal.umats)
    return layers, options.oversample**2 * layers * phisteps * domains


def _check_size(made: Plan) -> None:
    """`Sorry` for so many steps that a run would neither end nor fit into memory."""
    layers, steps = _steps(made.options, made.phisteps, made.experiment)
    domains = len(made.experiment.crystal.umats)
    if steps > MAX_STEPS or made.phisteps * domains > MAX_SIMULTANEOUS:
        raise Sorry(
            f"every pixel would take {steps:.3g} steps: {made.options.oversample} x "
            f"{made.options.oversample} sub-pixels, {layers} sensor layers, {made.phisteps} phi "
            f"steps, {domains} mosaic domains; give less of them "
            "(sampling.oversample, sampling.phisteps ...), or a smaller domain "
            "(crystal.Ncells_abc), which needs less sub-pixels"
        )


def _sampling_note(options: SimulationOptions, phisteps: int, experiment: Experiment) -> str:
    layers, steps = _steps(options, phisteps, experiment)
    return (
        f"Sampling: {options.oversample} x {options.oversample} sub-pixels, {layers} sensor "
        f"layers, {phisteps} phi steps, {len(experiment.crystal.umats)} mosaic domains: {steps} "
        "steps a pixel"
    )


def _with_roi(masks: list[Any], roi: list[list[int]], detector: Any) -> list[Any]:
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


def _check_carryover(made: Plan) -> None:
    """c-parity with midpoint sampling would be spec, unless some phi is exactly 0."""
    if made.options.phi_carryover_mode != "c-parity" or made.phi_sampling == "start":
        return
    if not any(0.0 in made.exposure(i).phi for i in range(made.n_images)):
        raise Sorry(
            "sampling.phi_carryover_mode=c-parity does nothing here: no phi is exactly 0 with "
            "sampling.phi_sampling=midpoint; use sampling.phi_sampling=start, as nanoBragg.c"
        )
