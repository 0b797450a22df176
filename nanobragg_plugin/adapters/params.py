"""PHIL parameters and dxtbx models to what the simulator needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import torch
from libtbx import Auto
from libtbx.phil import parse
from libtbx.utils import Sorry

from nanobragg_plugin import domain_sizes, sampling
from nanobragg_plugin import phil as phil_files
from nanobragg_plugin.adapters import (
    anomalous,
    beam_sources,
    beam_spectrum,
    checks,
    damage_phil,
    diffuse_phil,
    models,
    sampling_phil,
)
from nanobragg_plugin.adapters.anomalous import Amplitudes
from nanobragg_plugin.adapters.crystal_params import crystal_of
from nanobragg_plugin.adapters.fluence import fluence_of_images
from nanobragg_plugin.adapters.phil_values import positive
from nanobragg_plugin.models import Beam, Experiment, Exposure, Panel, SimulationOptions
from nanobragg_plugin.sources import split_sources
from nanobragg_plugin.structure_factors import StructureFactors

SUBJECTS = (
    "structure_factors",
    "crystal",
    "beam",
    "stills",
    "sampling",
    "detector",
    "noise",
    "output",
    "mp",
)


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
class Part:
    """What the core takes, its beam's fluence a share of the images' (1: all of it)."""

    experiment: Experiment
    structure_factors: StructureFactors


@dataclass(frozen=True)
class Plan:
    """All that simulates one crystal of one dxtbx experiment.

    dxtbx_experiment: the models as they will be written; experiment and structure_factors: what
    the core takes, at a fluence of 1 photon/m^2, and `more` that adds to the same images; fluences
    [images] photons/m^2; notes: lines for the log; amplitudes: those of the groups of sources,
    which summary describes.
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
    more: tuple[Part, ...] = ()
    amplitudes: tuple[Amplitudes, ...] = ()
    summary: str = ""

    @property
    def parts(self) -> tuple[Part, ...]:
        """All whose photons add up."""
        return Part(self.experiment, self.structure_factors), *self.more

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
    params: Any,
    dxtbx_experiment: Any,
    mask: Sequence[Any] | None = None,
    before: int = 0,
    scales: Sequence[float] | None = None,
    like: Plan | None = None,
    reach: float = 1.0,
) -> Plan:
    """Translate one dxtbx experiment and the extracted parameters; `Sorry` says what is amiss.

    mask: a bool array [slow, fast] a panel, True where good, or None; before: images of the
    crystal's scan before the experiment's first (`load.images_before`); scales: see
    `fluence_of_images`; like: a plan of the same detector, mask and amplitudes, whose panels and
    amplitudes this one takes; reach: how many times as far as the detector's corners see amplitudes
    are to be known.
    """
    core = core_of(params, dxtbx_experiment, mask, before, like)
    dxtbx_experiment, experiment = core.dxtbx_experiment, core.experiment
    fluences, fluence_note = fluence_of_images(params.beam, dxtbx_experiment, scales)
    if like is None:
        amplitudes, summary = anomalous.amplitudes_of_beam(
            params.structure_factors,
            experiment.beam,
            dxtbx_experiment.crystal,
            1 / (reach * sampling.q_max(experiment.panels, experiment.beam)),
        )
    else:
        amplitudes, summary = like.amplitudes, like.summary
    first, *more = _parts(experiment, amplitudes, params.crystal.domain_size_spread_percent)
    options, phisteps = core.options, core.phisteps
    result = Plan(
        dxtbx_experiment,
        first.experiment,
        first.structure_factors,
        options,
        phisteps,
        params.sampling.phi_sampling,
        params.sampling.phistep_deg,
        fluences,
        (
            *core.beam_notes,
            fluence_note,
            *core.notes,
            str(summary),
            sampling_phil.sampling_note(options, phisteps, experiment),
        ),
        tuple(more),
        amplitudes,
        str(summary),
    )
    sampling_phil.check_size(options, phisteps, experiment)
    _check_carryover(result)
    return result


@dataclass(frozen=True)
class Core:
    """What a dxtbx experiment is to the core, at a fluence of 1 photon/m^2, but for amplitudes,
    and how it is sampled; notes: lines for the log."""

    dxtbx_experiment: Any
    experiment: Experiment
    options: SimulationOptions
    phisteps: int
    beam_notes: tuple[str, ...]
    notes: tuple[str, ...]


def core_of(
    params: Any,
    dxtbx_experiment: Any,
    mask: Sequence[Any] | None = None,
    before: int = 0,
    like: Plan | None = None,
) -> Core:
    """All of a `plan` that takes no amplitudes; arguments as there."""
    checks.check_experiment(dxtbx_experiment)
    dxtbx_experiment, spectrum, spectrum_notes = beam_spectrum.with_spectrum(
        params.beam.spectrum, dxtbx_experiment
    )
    for scope, name in (
        (params.structure_factors, "d_min"),
        (params.sampling, "d_min"),
        (params.structure_factors.model, "wavelength"),
    ):
        if getattr(scope, name) not in (None, Auto):
            positive(getattr(scope, name), f"{scope.__phil_path__()}.{name}")
    device = torch_device(params.compute.device)
    beam = beam_of(params, dxtbx_experiment.beam, device)
    if like is None:
        panels = panels_of(params, dxtbx_experiment.detector, mask, beam)
    else:
        panels = like.experiment.panels
    sample = crystal_of(params.crystal, params.beam, dxtbx_experiment, device)
    beam = beam_sources.with_sources(beam, params.beam, spectrum)
    goniometer = models.goniometer(dxtbx_experiment.goniometer, device)
    damage, damage_note = damage_phil.damage_of(params, dxtbx_experiment, before, device)
    diffuse, diffuse_note = diffuse_phil.diffuse_of(params, dxtbx_experiment.crystal, device)
    crystal = replace(sample.crystal, damage=damage, diffuse=diffuse)
    experiment = Experiment(panels, beam, goniometer, crystal)
    phisteps = sampling_phil.phisteps_of(params, experiment, dxtbx_experiment.scan, sample.spread)
    streaks = beam_spectrum.streak_notes(params.beam.spectrum, experiment)
    return Core(
        dxtbx_experiment,
        experiment,
        sampling_phil.options_of(params, experiment),
        phisteps,
        (*spectrum_notes, *streaks),
        (*sample.notes, *(note for note in (damage_note, diffuse_note) if note)),
    )


def _parts(
    experiment: Experiment, amplitudes: Sequence[Amplitudes], size_spread: float
) -> list[Part]:
    """The experiment by the sizes of its domains, spread by so many percent, and by the groups of
    its sources that have amplitudes of their own."""
    device = experiment.beam.direction.device
    beams = [experiment.beam]
    if len(amplitudes) > 1:
        groups = split_sources(experiment.beam, [group.sources for group in amplitudes])
        beams = [replace(beam, fluence=share * beam.fluence) for beam, share in groups]
    crystals = (experiment.crystal,)
    if size_spread:
        relative = torch.as_tensor(size_spread / 100).to(experiment.crystal.A)
        crystals = domain_sizes.crystals_of_sizes(experiment.crystal, relative)
    tables = [group.structure_factors.to(device=device) for group in amplitudes]
    return [
        Part(replace(experiment, beam=beam, crystal=crystal), table)
        for crystal in crystals
        for beam, table in zip(beams, tables)
    ]


def panels_of(
    params: Any, detector: Any, mask: Sequence[Any] | None, beam: Beam
) -> tuple[Panel, ...]:
    """The core's panels; mask as `plan` has it."""
    masks = [None] * len(detector) if mask is None else list(mask)
    masks = sampling_phil.with_roi(masks, params.sampling.roi, detector)
    panels = models.panels(detector, masks, beam.direction.device)
    return sampling_phil.curved(panels, beam) if params.sampling.curved_detector else panels


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
