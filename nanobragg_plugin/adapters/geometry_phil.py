"""Experiments from PHIL: dxtbx's own parameters, and the crystal's.

dxtbx's factories do the work. They change what they are given, models and parameters alike, so
they get copies; a model that several experiments share is changed once and stays shared. What
they accept and do not do (the beam's flux and transmission, the names of axes) is done here.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

from cctbx.eltbx import attenuation_coefficient
from dials.array_family import flex
from dxtbx.model import Experiment
from dxtbx.model.beam import BeamFactory
from dxtbx.model.detector import DetectorFactory
from dxtbx.model.goniometer import GoniometerFactory
from dxtbx.model.scan import ScanFactory
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import checks
from nanobragg_plugin.adapters.crystal_phil import crystal_from_phil
from nanobragg_plugin.adapters.phil_values import positive

logger = logging.getLogger("dials.nanobragg_plugin.adapters.geometry_phil")

#: More images than any scan has: a slip of the pen, which would fill the memory.
MAX_IMAGES = 1_000_000
#: Angstrom; longer ones are no crystallographer's x-rays, but an energy taken for a wavelength.
MAX_WAVELENGTH = 100.0


def experiment_from_phil(params: Any) -> Experiment:
    """An experiment from the extracted `geometry` scope alone."""
    if not any(panel.image_size for panel in params.detector.panel):
        raise Sorry(
            "there is nothing to simulate: give an experiment list (.expt), a preset "
            "(preset=help lists them), or a detector (geometry.detector.panel.image_size= ...)"
        )
    experiment = Experiment()
    override([experiment], params)
    if params.scan.batch_offset is None and experiment.scan is not None:
        # as dxtbx does for its own sequences: the file's first image is array index 0
        experiment.scan.set_batch_offset(experiment.scan.get_array_range()[0])
    return experiment


def override(experiments: Sequence[Experiment], params: Any) -> None:
    """Change the models of experiments, or make those they lack, by what the `geometry` scope
    gives; `Sorry` where it does not describe a model, or a model is still missing."""
    made: dict[tuple[str, int], Any] = {}

    def change(experiment: Experiment, name: str, by: Callable[[Any], Any]) -> None:
        before = getattr(experiment, name)
        key = (name, id(experiment if before is None else before))
        if key not in made:
            made[key] = (before, by(before))  # `before` is kept, so that its id stays its own
        setattr(experiment, name, made[key][1])

    given = {
        name: _given(getattr(params, name))
        for name in ("beam", "detector", "goniometer", "scan", "crystal")
    }
    for experiment in experiments:
        if given["beam"]:
            change(experiment, "beam", lambda model: _beam(params, model))
        beam = experiment.beam
        if given["detector"] and beam is not None:
            change(experiment, "detector", lambda model, beam=beam: _detector(params, model, beam))
        if given["goniometer"]:
            change(experiment, "goniometer", lambda model: _goniometer(params, model))
        if given["scan"]:
            change(experiment, "scan", lambda model: _scan(params, model))
        if given["crystal"]:
            change(experiment, "crystal", lambda model: crystal_from_phil(params.crystal, model))
        checks.check_experiment(experiment)
        _set_absorption(experiment, params)


def _set_absorption(experiment: Experiment, params: Any) -> None:
    """`set_mu` of all panels, with what the log is to say."""
    materials = {panel.id for panel in params.detector.panel if panel.material}
    everything = params.beam.wavelength is not None
    notes = [
        set_mu(panel, number, experiment.beam, everything or number in materials)
        for number, panel in enumerate(experiment.detector)
    ]
    for note in dict.fromkeys(note for note in notes if note):
        logger.info(note)
    if any(panel.get_thickness() > 0 and panel.get_mu() == 0 for panel in experiment.detector):
        logger.warning(
            "The detector's sensor has neither material nor mu: it is simulated without one"
        )


def set_mu(panel: Any, number: int, beam: Any, anew: bool = False) -> str | None:
    """Give a panel that has a material and a thickness, but no mu (or any mu, with `anew`), the
    material's mu at the beam's wavelength (NIST's tables in cctbx), 1/mm; a line for the log."""
    if not (panel.get_thickness() > 0 and panel.get_material()):
        return None
    if panel.get_mu() != 0 and not anew:
        return None
    if hasattr(beam, "get_wavelength_range"):
        return None  # a polychromatic beam, whose mean wavelength is not known yet
    wavelength = checks.positive(beam.get_wavelength(), "the wavelength of the beam, Angstrom,")
    try:
        table = attenuation_coefficient.get_table(panel.get_material())
        mu = table.mu_at_angstrom(float(wavelength)) / 10
        panel.set_mu(mu)
    except (RuntimeError, LookupError, ValueError) as error:
        raise Sorry(
            f"the absorption of {panel.get_material()!r}, the material of panel {number}, is not "
            f"known at {float(wavelength):g} Angstrom ({error}): use an element or compound "
            "such as Si or CdTe, or thickness=0"
        ) from error
    return (
        f"Sensor: {panel.get_material()} of {panel.get_thickness():g} mm absorbs {mu:.4g}/mm at "
        f"{float(wavelength):g} Angstrom"
    )


def _beam(params: Any, model: Any) -> Any:
    params = copy.deepcopy(params)
    if params.beam.wavelength is not None:
        positive(params.beam.wavelength, "geometry.beam.wavelength")
        if params.beam.wavelength > MAX_WAVELENGTH:
            raise Sorry(
                f"geometry.beam.wavelength={params.beam.wavelength:g}: it is in Angstrom, 12398.42 "
                "over the energy in eV"
            )
    for name in ("wavelength", "direction"):
        if model is None and getattr(params.beam, name) is None:
            raise Sorry(
                f"there is no beam: give geometry.beam.{name} too, or an experiment list (the "
                "wavelength is in Angstrom, the direction points from the sample to the source)"
            )
    for name in ("direction", "polarization_normal"):
        if getattr(params.beam, name) is not None and not any(getattr(params.beam, name)):
            raise Sorry(f"geometry.beam.{name}=0,0,0 is no direction")
    model = _made("beam", BeamFactory.from_phil, params, copy.deepcopy(model))
    if params.beam.flux is not None:
        model.set_flux(params.beam.flux)
    if params.beam.transmission is not None:
        model.set_transmission(params.beam.transmission)
    return model


def _detector(params: Any, model: Any, beam: Any) -> Any:
    params = copy.deepcopy(params)
    detector = params.detector
    for name, scopes in (("panel", detector.panel), ("hierarchy.group", detector.hierarchy.group)):
        _refuse_lone_ids(name, scopes)
    detector.panel = _merged(detector.panel, lambda panel: panel.id)
    groups = [group for group in detector.hierarchy.group if _given(group)]
    detector.hierarchy.group = _merged(groups, lambda group: tuple(group.id))
    if model is not None:
        for panel in detector.panel:
            if not 0 <= panel.id < len(model):
                raise Sorry(
                    f"geometry.detector.panel.id={panel.id}: the detector has {len(model)} "
                    "panels, counted from 0"
                )
        if not _given(detector.panel):
            detector.panel = []  # or dxtbx makes panel 0's parallax correction anew
    panels = len(detector.panel if model is None else model)
    if detector.distance is not None and panels > 1:
        raise Sorry(
            f"geometry.detector.distance is for a detector of one panel, this one has {panels}: "
            "move it with geometry.detector.hierarchy.fast_axis, slow_axis and origin"
        )
    for panel in detector.panel:
        for name in ("gain", "pixel_size", "image_size"):
            if getattr(panel, name) is not None:
                positive(getattr(panel, name), f"panel {panel.id}: geometry.detector.panel.{name}")
    return _made("detector", DetectorFactory.from_phil, params, copy.deepcopy(model), beam)


def _goniometer(params: Any, model: Any) -> Any:
    params = copy.deepcopy(params)
    given = params.goniometer
    if given.axes is not None and len(given.axes) == 3 and given.axis is None:
        given.axis, given.axes = given.axes, None
    several = hasattr(model, "get_axes") or (model is None and given.axes is not None)
    if several and given.names is not None:
        given.names = flex.std_string(given.names.replace(",", " ").split())
    if several and given.angles is not None:
        given.angles = flex.double(given.angles)
    if not several and given.scan_axis is not None:
        raise Sorry("geometry.goniometer.scan_axis is for a goniometer of several axes (axes=...)")
    for name in ("axis", "axes"):
        values = getattr(given, name) or ()
        triples = zip(*[iter(values)] * 3)
        if any(not any(triple) for triple in triples):
            raise Sorry(f"geometry.goniometer.{name}: (0, 0, 0) is no direction")
    changed = _made("goniometer", GoniometerFactory.from_phil, params, copy.deepcopy(model))
    if changed is None:
        raise Sorry("there is no goniometer to change: give geometry.goniometer.axis or axes")
    return changed


def _scan(params: Any, model: Any) -> Any:
    params = copy.deepcopy(params)
    first, last = params.scan.image_range or (1, 1)
    if last < first or last - first >= MAX_IMAGES:
        raise Sorry(
            f"geometry.scan.image_range={first},{last}: give the first and the last image, at "
            f"most {MAX_IMAGES} in all"
        )
    scan = _made("scan", ScanFactory.from_phil, params, copy.deepcopy(model))
    if scan is None:
        raise Sorry(
            "there is no scan to change: give geometry.scan.image_range and "
            "geometry.scan.oscillation"
        )
    return scan


def _given(scope: Any) -> bool:
    """Whether anything is set in an extracted scope, all of whose defaults are None or False, and
    0 of a panel's number."""
    if isinstance(scope, (list, tuple)):
        return any(map(_given, scope))
    if not hasattr(scope, "__phil_path__"):
        return scope is not None and scope is not False
    values = {name: value for name, value in vars(scope).items() if not name.startswith("_")}
    number = values.pop("id", 0)
    return number not in (None, 0) or any(map(_given, values.values()))


def _refuse_lone_ids(name: str, scopes: list[Any]) -> None:
    """`Sorry` for a panel or group number with nothing beside it, as two assignments of a command
    line make it: `panel.id=1 panel.gain=2` are two panels, of which the second is panel 0."""
    for scope in scopes:
        others = [v for key, v in vars(scope).items() if key != "id" and not key.startswith("_")]
        if _given(scope) and (scope.id is None or not any(map(_given, others))):
            raise Sorry(
                f"geometry.detector.{name}: give its id together with what is changed, in a PHIL "
                f"file: geometry.detector.{name} {{ id=1; name=x }}"
            )


def _merged(scopes: list[Any], key: Callable[[Any], Any]) -> list[Any]:
    """Extracted scopes of the same key as one, in which later values override earlier ones:
    `panel.gain=2 panel.pedestal=9` is one panel, and refines a preset's."""
    merged: dict[Any, Any] = {}
    for scope in scopes:
        into = merged.setdefault(key(scope), scope)
        for name, value in vars(scope).items():
            if not name.startswith("_") and value not in (None, [], [None]):
                setattr(into, name, value)
    return list(merged.values())


def _made(what: str, factory: Any, *args: Any) -> Any:
    """A dxtbx factory's model; what it refuses is a `Sorry`."""
    try:
        return factory(*args)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        AssertionError,
        ArithmeticError,
    ) as error:
        reason = checks.one_line(error)
        raise Sorry(f"geometry.{what} does not describe a {what}: {reason}") from error
