"""A command line of nanoBragg.c as dxtbx models, and as what simulates it.

`nanobragg.simulate` does the same with what `-show_expt` and `-show_phil` write. Beyond it there
is only what dxtbx's models would round or cannot hold: axes of the detector that are not quite at
right angles, an E vector that is not quite at right angles to the beam, phi to the last bit (the
carryover asks whether it is exactly 0), and a curved detector of another convention than mosflm's.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from dxtbx.model import (
    Beam,
    Crystal,
    Detector,
    Experiment,
    GoniometerFactory,
    ScanFactory,
    SimplePxMmStrategy,
)
from libtbx.phil import parse as parse_phil

from nanobragg_plugin import models as core
from nanobragg_plugin.adapters import beam_sources
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.adapters.classic import phil
from nanobragg_plugin.adapters.classic.translate import Translated
from nanobragg_plugin.constants import RTD


def experiment_of(t: Translated) -> Experiment:
    """The dxtbx models."""
    g, s = t.geometry, t.settings
    beam = Beam(tuple(-g.beam), s.wavelength * 1e10)
    beam.set_polarization_fraction((s.polarization + 1) / 2)
    beam.set_polarization_normal(tuple(np.cross(g.beam, g.e_vector)))
    goniometer = scan = None
    width = t.phi.width if t.phi.step else 0.0
    if width or s.phi:
        goniometer = GoniometerFactory.make_goniometer(
            tuple(g.spindle), (1, 0, 0, 0, 1, 0, 0, 0, 1)
        )
        scan = ScanFactory.make_scan((1, 1), [s.exposure], (s.phi * RTD, width * RTD), {0: 0.0})
    return Experiment(
        beam=beam,
        detector=_detector(t),
        goniometer=goniometer,
        scan=scan,
        crystal=Crystal(*map(tuple, t.cell.real), space_group_symbol="P1"),
    )


def with_mask(experiment: Experiment, mask: np.ndarray) -> Experiment:
    """The experiment with what a mask [slow, fast] leaves out as untrusted rectangles of its
    panel, so that an experiment list holds it."""
    for slow, fast_first, fast_last, height in rectangles(~mask):
        experiment.detector[0].add_mask(fast_first, slow, fast_last, slow + height)
    return experiment


def rectangles(bad: np.ndarray) -> list[tuple[int, int, int, int]]:
    """(first slow, first fast, end of fast, number of rows) of rectangles that cover the True of
    an array [slow, fast]: runs along fast, joined where rows repeat them."""
    open_runs: dict[tuple[int, int], int] = {}
    found = []
    empty = np.zeros((1, bad.shape[1]), bool)
    for slow, row in enumerate(np.concatenate([bad, empty])):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        runs = {(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2])}
        for run in [run for run in open_runs if run not in runs]:
            first = open_runs.pop(run)
            found.append((first, *run, slow - first))
        for run in runs:
            open_runs.setdefault(run, slow)
    return found


def _detector(t: Translated) -> Detector:
    """One panel, its slow axis made orthogonal to the fast one, as dxtbx asks."""
    g = t.geometry
    slow = g.slow - (g.slow @ g.fast) * g.fast
    slow /= np.linalg.norm(slow)
    detector = Detector()
    panel = detector.add_panel()
    panel.set_name("detector")
    panel.set_frame(*(tuple(map(float, v)) for v in (g.fast, slow, g.origin * 1e3)))
    panel.set_image_size((g.n_fast, g.n_slow))
    panel.set_pixel_size((g.pixel * 1e3, g.pixel * 1e3))
    panel.set_trusted_range((-1, 65535))
    panel.set_px_mm_strategy(SimplePxMmStrategy())
    step, layers, mu = t.sensor
    if layers:
        panel.set_thickness(t.settings.thickness * 1e3)
        panel.set_mu(mu * 1e-3)
        panel.set_material("Si")
    return detector


def plan_of(t: Translated) -> adapt.Plan:
    """What simulates the command line."""
    scope = adapt.master_scope()
    params = scope.fetch(parse_phil("\n".join(phil.phil_of(t)))).extract()
    experiment = experiment_of(t)
    plan = adapt.plan(params, experiment, None if t.mask is None else [t.mask])
    return dataclasses.replace(plan, experiment=_exact(t, plan, params))


def _exact(t: Translated, plan: adapt.Plan, params: Any) -> core.Experiment:
    """The experiment with what dxtbx's models do not hold."""
    g, experiment = t.geometry, plan.experiment
    (panel,) = experiment.panels

    def vector(values: np.ndarray) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64).to(panel.origin)

    panel = dataclasses.replace(panel, fast=vector(g.fast), slow=vector(g.slow))
    if g.off_normal > 1e-12:
        panel = dataclasses.replace(panel, odet=vector(g.normal))
    if t.settings.curved:
        panel = dataclasses.replace(panel, curved=vector(g.beam * g.distance * 1e3))
    beam = experiment.beam
    if abs(g.beam @ g.e_vector) > 1e-12:
        beam = adapt.beam_of(params, plan.dxtbx_experiment.beam, panel.origin.device)
        beam = dataclasses.replace(beam, polarization_axis=vector(g.e_vector))
        beam = beam_sources.with_sources(beam, params.beam)
    return dataclasses.replace(experiment, panels=(panel,), beam=beam)


def not_held(t: Translated) -> list[str]:
    """What of a command line dxtbx's models and PHIL do not hold, in words."""
    s, g = t.settings, t.geometry
    lengths = [float(np.linalg.norm(axis)) for axis in (g.fast, g.slow)]
    # of rays in the plane of beam and E vector, its part along the beam does not matter
    diverges = s.sources is not None or t.spread.vertical.width > 0
    found = {
        "-fdet_vector and -sdet_vector, which are not at right angles": abs(g.fast @ g.slow) > 1e-9,
        "the lengths of the detector's vectors": any(abs(length - 1) > 1e-9 for length in lengths),
        "-odet_vector, which is not the detector's normal": g.off_normal > 1e-9,
        "-polar_vector, which is not at right angles to the beam": diverges
        and abs(g.beam @ g.e_vector) > 1e-9,
        "-curved_det of a beam that is not along x": s.curved and not phil.along_x(t),
    }
    return [f"the models do not hold {what}" for what, is_so in found.items() if is_so]


def exposure_of(t: Translated, plan: adapt.Plan) -> core.Exposure:
    """phi of every step, as nanoBragg.c computes it."""
    exposure = plan.exposure(0)
    phi = tuple(t.settings.phi + t.phi.step * k for k in range(len(exposure.phi)))
    return dataclasses.replace(exposure, phi=phi)
