# ruff: noqa: E402
"""What newer versions of dxtbx do differently, with classes that follow their sources
(`newer_dxtbx`) in the place of those that are installed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("dials")

import newer_dxtbx as newer
import simulate_helpers as sim
from dxtbx.model import Beam, MultiAxisGoniometer
from libtbx.phil import parse
from libtbx.utils import Sorry
from scitbx.array_family import flex

from nanobragg_plugin.adapters import beam_spectrum as spectra
from nanobragg_plugin.adapters import (
    dxtbx_versions,
    geometry_phil,
)
from nanobragg_plugin.adapters import models as adapters
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.adapters.compared_tables import d_of_places
from nanobragg_plugin.format import nxmx_tree
from nanobragg_plugin.run import view_images

MINIMAL = "structure_factors.default_F=1\nbeam.fluence=1\n"


def params_of(text: str = "") -> Any:
    return adapt.master_scope().fetch(parse(MINIMAL + text)).extract()


# --- 3.12: the trusted range


@pytest.mark.parametrize(
    ("panel", "inclusive"), [(newer.InclusivePanel, True), (newer.ExclusivePanel, False)]
)
def test_a_trusted_range_includes_its_ends_or_not(panel, inclusive, monkeypatch):
    monkeypatch.setattr(dxtbx_versions, "Panel", panel)
    assert dxtbx_versions.trusted_range_is_inclusive.__wrapped__() is inclusive


def test_a_trusted_range_that_another_dxtbx_saved(monkeypatch):
    """Whole numbers from 0 to 9 are (-1, 10) to 3.11 and (0, 10) to 3.12, whose changelog moves the
    lower end alone; nothing is trusted of (0, 0)."""
    monkeypatch.setattr(dxtbx_versions, "trusted_range_is_inclusive", lambda: True)
    assert dxtbx_versions.trusted_range_here((-1, 10), False) == [0, 10]
    assert dxtbx_versions.trusted_range_here((0, 10), True) == [0, 10]
    assert dxtbx_versions.trusted_range_here((0, 0), False) == [0, 0]
    monkeypatch.setattr(dxtbx_versions, "trusted_range_is_inclusive", lambda: False)
    assert dxtbx_versions.trusted_range_here((0, 10), True) == [-1, 10]


def test_limits_of_an_nxmx_file(monkeypatch):
    """3.12 to 3.28 (nexus/__init__.py) trust from underload_value to saturation_value, both
    included; 3.11 from underload_value - 1 to saturation_value, both excluded."""
    detector = sim.detector()
    detector[0].set_trusted_range((0, 100))
    for inclusive, limits in ((True, (0, 100)), (False, (1, 100))):
        monkeypatch.setattr(dxtbx_versions, "trusted_range_is_inclusive", lambda i=inclusive: i)
        assert nxmx_tree.trusted_limits(detector) == limits


# --- 3.16: probes and polychromatic beams


def polychromatic(*limits: float) -> Any:
    kind = newer.PolychromaticBeamOfRange if limits else newer.PolychromaticBeam
    beam = kind((0, 0.1, 1), 1.0)
    if limits:
        beam.set_wavelength_range(limits)
    beam.set_flux(3e11)
    return beam


@pytest.mark.parametrize("limits", [(), (0.9, 1.2)])
def test_a_polychromatic_beam_is_refused_where_one_wavelength_is_needed(limits):
    beam = polychromatic(*limits)
    with pytest.raises(Sorry, match="polychromatic and has no s0"):
        adapters.beam(beam, 1.0)
    with pytest.raises(Sorry, match="the beam of an image is polychromatic"):
        d_of_places(sim.detector()[0], beam, np.zeros((1, 2)))
    image = SimpleNamespace(get_detector=lambda index: None, get_beam=lambda index: beam)
    with pytest.raises(Sorry, match="the beam of image 5 is polychromatic"):
        view_images.Series(5, ((image, 0),), (), (), True).models(5)


def test_a_polychromatic_beam_without_a_range_needs_a_spectrum(tmp_cwd):
    """That of 3.16 to 3.18, which has no get_wavelength_range, and raises for the scan points."""
    experiment = sim.sweep(beam=polychromatic())
    with pytest.raises(Sorry, match="has no wavelength range"):
        adapt.plan(params_of(), experiment)
    rows = "".join(f"{energy} {share}\n" for energy, share in ((12300, 1), (12400, 2), (12500, 1)))
    Path("s.txt").write_text(rows)
    text = "beam.spectrum.shape=spectrum_file\nbeam.spectrum.spectrum_file=s.txt"
    plan = adapt.plan(params_of(text), experiment)
    beam = plan.dxtbx_experiment.beam
    assert type(beam) is Beam and beam.get_flux() == 3e11
    assert beam.get_wavelength() == pytest.approx(12398.42 / 12400, rel=1e-6)


def test_a_probe_goes_with_the_beam_and_is_refused():
    """Of neutrons: neither as a beam nor, after its spectrum is known, as a polychromatic one."""
    neutrons = newer.BeamWithProbe((0, 0, 1), 1.0)
    neutrons.set_probe("neutron")
    with pytest.raises(Sorry, match="the beam's probe is neutron"):
        adapt.plan(params_of(), sim.sweep(beam=neutrons))
    wide, narrow = polychromatic(0.9, 1.2), newer.BeamWithProbe((0, 0, 1), 1.0)
    wide.set_probe("electron")
    wide.set_polarization_fraction(0.25)
    dxtbx_versions.copy_beam(wide, narrow)
    assert narrow.get_probe_name() == "electron" and narrow.get_flux() == 3e11
    assert narrow.get_polarization_fraction() == 0.25 and narrow.get_wavelength() == 1.0
    assert dxtbx_versions.probe_name(Beam((0, 0, 1), 1.0)) == "x-ray"


def with_choices(params: Any, kind: str = "monochromatic", probe: str = "x-ray") -> Any:
    """Parameters as beam_phil_scope of 3.16 and later makes them: with two choices more, both with
    a default, and (3.19) a range of wavelengths."""
    for name, value in (("type", kind), ("probe", probe), ("wavelength_range", None)):
        params.geometry.beam.__inject__(name, value)
    return params


def test_choices_of_the_beam_that_nobody_made_leave_it_alone():
    experiment = sim.sweep()
    before = experiment.beam
    geometry_phil.override([experiment], with_choices(params_of()).geometry)
    assert experiment.beam is before
    without = sim.sweep(beam=None)
    with pytest.raises(Sorry, match="the experiment has no beam"):
        geometry_phil.override([without], with_choices(params_of()).geometry)


def test_choices_of_the_beam_that_are_made(monkeypatch):
    """Its from_phil (3.19, beam.py), as far as it is asked here."""

    def from_phil(params: Any, reference: Any = None) -> Any:
        beam = reference
        if beam is None:
            beam = newer.PolychromaticBeamOfRange((0, 0, 1), 1.0)
        if params.beam.direction is not None:
            beam.set_direction(params.beam.direction)
        if params.beam.probe != "x-ray":
            beam.set_probe(params.beam.probe)
        if params.beam.type == "polychromatic" and params.beam.wavelength_range is not None:
            beam.set_wavelength_range(params.beam.wavelength_range)
        return beam

    monkeypatch.setattr(geometry_phil.BeamFactory, "from_phil", staticmethod(from_phil))
    params = with_choices(params_of("geometry.beam.direction=0,0,1"), "polychromatic")
    with pytest.raises(Sorry, match="give geometry.beam.wavelength_range too"):
        geometry_phil.override([sim.sweep(beam=None)], params.geometry)
    params.geometry.beam.wavelength_range = [0.9, 1.2]
    experiment = sim.sweep(beam=None)
    geometry_phil.override([experiment], params.geometry)
    assert dxtbx_versions.wavelength_range(experiment.beam) == (0.9, 1.2)
    # photons of an even spectrum, mean energy: 12398.42 ln(1.2/0.9)/0.3 eV
    _, found, _ = spectra.with_spectrum(params.beam.spectrum, experiment)
    assert found.mean == pytest.approx(12398.42 * np.log(1.2 / 0.9) / 0.3, rel=1e-4)


# --- 3.16 and 3.20: factories that became stricter


def test_panels_are_merged_before_dxtbx_would_refuse_them(monkeypatch):
    """3.16, detector.py, merge_panel_scope_extracts_by_id raises for two values of one panel."""
    given = []
    make = geometry_phil.DetectorFactory.from_phil

    def from_phil(params: Any, *args: Any) -> Any:
        given.append([panel.id for panel in params.detector.panel])
        return make(params, *args)

    monkeypatch.setattr(geometry_phil.DetectorFactory, "from_phil", staticmethod(from_phil))
    text = "geometry.detector.panel.gain=2\ngeometry.detector.panel.gain=3\n"
    experiment = sim.sweep()
    geometry_phil.override([experiment], params_of(text).geometry)
    assert given == [[0]] and experiment.detector[0].get_gain() == 3


@pytest.mark.parametrize("given", ["axis=1,0,0", "axes=1,0,0"])
def test_one_axis_for_a_goniometer_of_several(given):
    """3.20 raises for `axis`, versions before pass over it."""
    axes = flex.vec3_double([(1, 0, 0), (0, 1, 0)])
    several = MultiAxisGoniometer(axes, flex.double([0, 0]), flex.std_string(["phi", "omega"]), 0)
    with pytest.raises(Sorry, match=r"geometry\.goniometer"):
        geometry_phil.override(
            [sim.sweep(goniometer=several)], params_of(f"geometry.goniometer.{given}").geometry
        )
