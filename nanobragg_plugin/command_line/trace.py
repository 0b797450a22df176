"""Print every intermediate of a pixel, from its position to its photons.

Give it what nanobragg.simulate was given, and a pixel. Every figure is a tensor of the simulation
itself. The photons are those expected of the crystal, without background.level and noise.

Examples::

  nanobragg.trace refined.expt scaled.mtz beam.fluence=1e24 pixel=685,1039

  nanobragg.trace refined.expt scaled.mtz beam.fluence=1e24 pixel=12,34 panel=2 image=7 --json
"""

from __future__ import annotations

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx: torch keeps its threads

import dataclasses
import sys

import torch
from dials.util import Sorry, show_mail_handle_errors
from libtbx import Auto
from libtbx.phil import parse

from nanobragg_plugin import phil as phil_files
from nanobragg_plugin.adapters import detector_phil, fluence, geometry_phil, load
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.run import arguments, messages, trace_report

phil_scope = parse(phil_files.read("trace"))
phil_scope.adopt_scope(adapt.master_scope())
USAGE = "nanobragg.trace models.expt [F.mtz] [parameters.phil] [name=value ...] pixel=SLOW,FAST"


@show_mail_handle_errors()
def run(args: list[str] | None = None) -> None:
    """The command."""
    with messages.clear(), messages.stoppable():
        _run(sys.argv[1:] if args is None else list(args))


def _run(args: list[str]) -> None:
    args = ["json=True" if arg == "--json" else arg for arg in args]
    params, _, listed, _ = arguments.parse_command(args, phil_scope, USAGE, __doc__)
    if params.preset == "help":
        raise Sorry("nanobragg.simulate preset=help lists the presets")
    if params.pixel is None:
        raise Sorry("which pixel? give pixel=SLOW,FAST, its indices from 0")
    if params.compute.nthreads is not Auto:
        torch.set_num_threads(params.compute.nthreads)
    source, scales = source_of(params, listed)
    detector_phil.set_panels([source], params.detector)
    chosen = load.select_images(source, params.sampling.image_range)
    index, number = image_of(params.image, chosen.scan)
    before = load.images_before(source, chosen)
    scales = fluence.scales_of_chosen(scales, source, chosen)
    plan = adapt.plan(params, chosen, load.lookup(source).mask, before, scales)
    if plan.more:
        raise Sorry(
            f"the beam has {len(plan.parts)} groups of wavelengths with amplitudes of their own: "
            "a trace is of one; give structure_factors.model.wavelength one value"
        )
    report = trace_report.of_plan(
        plan.experiment_of_image(index),
        plan.exposure(index),
        plan.structure_factors,
        plan.options,
        params.panel,
        *params.pixel,
    )
    notes = plan.notes
    if plan.experiment.crystal.diffuse is not None:
        notes = (*notes, "Traced are the spots: images have the diffuse scattering besides")
    report = dataclasses.replace(report, image=number, notes=notes)
    print(report.json() if params.json else report.text())


def source_of(params, listed):
    """The dxtbx experiment that is asked for, and its images' scales."""
    if not len(listed):
        if params.experiment:
            raise Sorry(f"experiment={params.experiment}: there is no list of experiments")
        source = geometry_phil.experiment_from_phil(params.geometry)
        return source, fluence.scales_of_images(params.beam, [source])[0]
    if params.experiment >= len(listed):
        raise Sorry(f"experiment={params.experiment}: the list holds {len(listed)}, counted from 0")
    sources = load.sweeps(listed)
    geometry_phil.override(sources, params.geometry)
    scales = fluence.scales_of_images(params.beam, sources)
    return sources[params.experiment], scales[params.experiment]


def image_of(number: int | None, scan) -> tuple[int, int]:
    """Which image is asked for: counted from 0, and as the scan numbers it (1 of a still)."""
    first, last = (1, 1) if scan is None else scan.get_image_range()
    number = first if number is None else number
    if not first <= number <= last:
        raise Sorry(f"image={number}: the images are {first} to {last}")
    return number - first, number


if __name__ == "__main__":
    run()
