"""Simulate the diffraction images of an experiment list.

Every sweep or still of the list becomes an NXmx file that DIALS reads like a beamline's, with
an experiment list that points at the images, and a record of how they were made.

Examples::

  nanobragg.simulate refined.expt structure_factors.file=model.pdb beam.fluence=1e24

  nanobragg.simulate refined.expt scaled.mtz beam.flux=1e12 beam.exposure_s=0.1 \\
    beam.beamsize_mm=0.05 crystal.size_mm=0.05,0.05,0.05 crystal.mosaic.spread_deg=0.1

  nanobragg.simulate preset=pilatus_6m F.mtz geometry.crystal.unit_cell=79,79,38,90,90,90

  nanobragg.simulate preset=help
"""

from __future__ import annotations

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx: torch keeps its threads

import logging
import sys

import torch
from dials.util import log, show_mail_handle_errors
from dials.util.options import ArgumentParser, flatten_experiments
from libtbx import Auto
from tqdm import tqdm

from nanobragg_plugin import phil as phil_files
from nanobragg_plugin.adapters import geometry_phil, load
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.run import arguments, experiments, outputs, preview, provenance, sweep

logger = logging.getLogger("dials.nanobragg_plugin.command_line.simulate")

phil_scope = adapt.master_scope()
USAGE = "nanobragg.simulate [options] [models.expt] [F.mtz] [parameters.phil] [name=value ...]"


@show_mail_handle_errors()
def run(args: list[str] | None = None) -> None:
    """The command."""
    args = sys.argv[1:] if args is None else list(args)
    params, options, listed, diff_phil = parse(args)
    if params.preset == "help":
        print("Presets:\n  " + "\n  ".join(phil_files.presets()))
        return
    outputs.check_writable(params.output.log, overwrite=True)
    log.config(verbosity=options.verbose, logfile=params.output.log)
    logger.info("nanobragg.simulate %s, torch %s", nanobragg_plugin.__version__, torch.__version__)
    if diff_phil:
        logger.info("The following parameters have been modified:\n\n%s", diff_phil)
    if params.compute.nthreads is not Auto:
        torch.set_num_threads(params.compute.nthreads)
    simulate(params, listed)


def parse(args: list[str]) -> tuple:
    """Extracted parameters, options, experiments of the list, and what was modified."""
    scope = phil_scope
    name = arguments.preset_of(args, scope)
    if name not in (None, "help"):
        scope = adapt.with_preset(scope, name)
    arguments.check_readable(args)
    parser = ArgumentParser(
        phil=scope, usage=USAGE, epilog=__doc__, read_experiments=True, check_format=False
    )
    params, options, unhandled = parser.parse_args(
        args=args, show_diff_phil=False, return_unhandled=True
    )
    arguments.take_files(unhandled, params)
    listed = flatten_experiments(params.input.experiments)
    return params, options, listed, parser.diff_phil.as_str().strip()


def simulate(params, listed) -> None:
    """Simulate what the parameters and the experiment list say."""
    if len(listed):
        sources = load.sweeps(listed)
        for source in sources:
            geometry_phil.override(source, params.geometry)
    else:
        sources = [geometry_phil.experiment_from_phil(params.geometry)]
    files = outputs.Outputs.of(params.output, len(sources))
    files.check(params.output.overwrite)
    plans = []
    for source in sources:
        chosen = load.select_images(source, params.sampling.image_range)
        plans.append(adapt.plan(params, chosen, load.static_mask(source)))
        logger.info("\n".join(plans[-1].notes))
    text = phil_scope.format(params).as_str()
    seeds = {"noise": params.noise.seed, "mosaic": params.crystal.mosaic.seed}
    record = provenance.provenance(text, arguments.inputs_of(params), seeds)
    detection = sweep.Detection(params.noise.poisson, params.noise.seed, params.background.level)
    written, total = [], sum(plan.n_images for plan in plans)
    with tqdm(total=total, unit="image", disable=not sys.stderr.isatty()) as bar:
        for plan, source, path in zip(plans, sources, files.images):
            first = sweep.run_sweep(
                plan, path, detection, record, params.output.compression, bar.update
            )
            written.append(experiments.output_experiment(source, plan.dxtbx_experiment, path))
            logger.info("Wrote %d images to %s", plan.n_images, path)
            if params.output.preview and len(written) == 1:
                drawn = sweep.readout(plan, 0, first, detection)
                model = plan.dxtbx_experiment
                preview.write_preview(files.preview, drawn, model.detector, model.beam)
                logger.info("Wrote a picture of the first image to %s", files.preview)
    provenance.write_json(files.provenance, record)
    experiments.write_experiments(files.experiments, written)
    logger.info("Wrote the experiment list to %s", files.experiments)


if __name__ == "__main__":
    run()
