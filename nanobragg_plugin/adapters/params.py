"""PHIL parameters and dxtbx models to what the simulator needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import torch
from libtbx.phil import parse
from libtbx.utils import Sorry

from nanobragg_plugin import phil as phil_files
from nanobragg_plugin import sampling
from nanobragg_plugin.adapters import (
    beam_sources,
    checks,
    damage_phil,
    diffuse_phil,
    miller,
    models,
    sampling_phil,
)
from nanobragg_plugin.adapters.crystal_params import crystal_of
from nanobragg_plugin.adapters.fluence import fluence_of_images
from nanobragg_plugin.adapters.phil_values import positive
from nanobragg_plugin.models import Beam, Experiment, Exposure, SimulationOptions
from nanobragg_plugin.structure_factors import StructureFactors

SUBJECTS = ("structure_factors", "crystal", "beam", "sampling", "detector", "noise", "output")


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
        beam = replace(self.experiment.beam, fluence=fluence)
        return replace(self.experiment, beam=beam)


def plan(
    params: Any, dxtbx_experiment: Any, mask: Sequence[Any] | None = None, before: int = 0
) -> Plan:
    """Translate one dxtbx experiment and the extracted parameters; `Sorry` says what is amiss.

    mask: a bool array [slow, fast] a panel, True where good, or None; before: images of the
    crystal's scan before the experiment's first (`load.images_before`).
    """
    checks.check_experiment(dxtbx_experiment)
    for scope, name in (
        (params.structure_factors, "d_min"),
        (params.sampling, "d_min"),
        (params.structure_factors.model, "wavelength"),
    ):
        if getattr(scope, name) is not None:
            positive(getattr(scope, name), f"{scope.__phil_path__()}.{name}")
    device = torch_device(params.compute.device)
    fluences, fluence_note = fluence_of_images(params.beam, dxtbx_experiment)
    beam = beam_of(params, dxtbx_experiment.beam, device)
    masks = [None] * len(dxtbx_experiment.detector) if mask is None else list(mask)
    panels = models.panels(
        dxtbx_experiment.detector,
        sampling_phil.with_roi(masks, params.sampling.roi, dxtbx_experiment.detector),
        device,
    )
    if params.sampling.curved_detector:
        panels = sampling_phil.curved(panels, beam)
    sample = crystal_of(params.crystal, params.beam, dxtbx_experiment, device)
    beam = beam_sources.with_sources(beam, params.beam)
    goniometer = models.goniometer(dxtbx_experiment.goniometer, device)
    damage, damage_note = damage_phil.damage_of(params, dxtbx_experiment, before, device)
    diffuse, diffuse_note = diffuse_phil.diffuse_of(params, dxtbx_experiment.crystal, device)
    crystal = replace(sample.crystal, damage=damage, diffuse=diffuse)
    experiment = Experiment(panels, beam, goniometer, crystal)
    amplitudes, summary = miller.structure_factors_from_params(
        params.structure_factors,
        dxtbx_experiment.crystal.get_space_group().info(),
        dxtbx_experiment.crystal.get_unit_cell(),
        1 / sampling.q_max(panels, beam),
    )
    phisteps = sampling_phil.phisteps_of(params, experiment, dxtbx_experiment.scan, sample.spread)
    options = sampling_phil.options_of(params, experiment)
    result = Plan(
        dxtbx_experiment,
        experiment,
        amplitudes.to(device=device),
        options,
        phisteps,
        params.sampling.phi_sampling,
        params.sampling.phistep_deg,
        fluences,
        (
            fluence_note,
            *sample.notes,
            *(note for note in (damage_note, diffuse_note) if note),
            str(summary),
            sampling_phil.sampling_note(options, phisteps, experiment),
        ),
    )
    sampling_phil.check_size(options, phisteps, experiment)
    _check_carryover(result)
    return result


def beam_of(params: Any, dxtbx_beam: Any, device: Any) -> Beam:
    """The core's beam at a fluence of 1 photon/m^2, as one source."""
    beam = models.beam(dxtbx_beam, 1.0, device)
    return beam if params.beam.polarization_correction else replace(beam, kahn_factor=None)


def torch_device(name: str, parameter: str = "compute.device") -> torch.device:
    """The torch device of that name; `Sorry` where there is none."""
    try:
        device = torch.device(name)
        torch.zeros(1, dtype=torch.float64, device=device).cpu()
    except (TypeError, RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        raise Sorry(
            f"{parameter}={name} cannot be used here ({str(error).splitlines()[0]}); try cpu"
        ) from error
    return device


def _check_carryover(made: Plan) -> None:
    """c-parity with midpoint sampling would be spec, unless some phi is exactly 0."""
    if made.options.phi_carryover_mode != "c-parity" or made.phi_sampling == "start":
        return
    if not any(0.0 in made.exposure(i).phi for i in range(made.n_images)):
        raise Sorry(
            "sampling.phi_carryover_mode=c-parity does nothing here: no phi is exactly 0 with "
            "sampling.phi_sampling=midpoint; use sampling.phi_sampling=start, as nanoBragg.c"
        )
