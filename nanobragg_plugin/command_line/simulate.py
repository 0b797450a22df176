"""Simulate the diffraction images of an experiment list.

Every sweep or still of the list, of one crystal or several, becomes an NXmx file that DIALS reads
like a beamline's (or CBF, SMV or raw files: output.format), with an experiment list that points at
the images, and a record of how they were made.

Examples::

  nanobragg.simulate refined.expt structure_factors.file=model.pdb beam.fluence=1e24

  nanobragg.simulate refined.expt scaled.mtz beam.flux=1e12 beam.exposure_s=0.1 \\
    beam.beamsize_mm=0.05 crystal.size_mm=0.05,0.05,0.05 crystal.mosaic.spread_deg=0.1

  nanobragg.simulate preset=pilatus_6m F.mtz geometry.crystal.unit_cell=79,79,38,90,90,90

  nanobragg.simulate preset=jungfrau_4m F.mtz stills.count=100

  nanobragg.simulate preset=help
"""

from __future__ import annotations

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx: torch keeps its threads

import logging
import sys

import torch
from dials.util import log, show_mail_handle_errors
from libtbx import Auto
from tqdm import tqdm

from nanobragg_plugin import phil as phil_files
from nanobragg_plugin.adapters import crystal_params
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.run import (
    arguments,
    data_sets,
    experiments,
    live_writer,
    messages,
    outputs,
    preview,
    provenance,
    sweep,
    truth,
    writers,
)

logger = logging.getLogger("dials.nanobragg_plugin.command_line.simulate")

phil_scope = adapt.master_scope()
USAGE = "nanobragg.simulate [options] [models.expt] [F.mtz] [parameters.phil] [name=value ...]"


@show_mail_handle_errors()
def run(args: list[str] | None = None) -> None:
    """The command."""
    with messages.clear(), messages.stoppable():
        _run(sys.argv[1:] if args is None else list(args))


def _run(args: list[str]) -> None:
    params, options, listed, diff_phil = arguments.parse_command(args, phil_scope, USAGE, __doc__)
    if params.preset == "help":
        print("Presets:")
        for name, text in phil_files.presets().items():
            print(f"  {name:14} {text.splitlines()[0].lstrip('# ')}")
        return
    files = outputs.Outputs.of(params.output, data_sets.number_of_files(params, listed))
    inputs = arguments.inputs_of(params, listed)
    files.check(params.output, inputs)
    log.config(verbosity=options.verbose, logfile=params.output.log)
    logger.info("nanobragg.simulate %s, torch %s", nanobragg_plugin.__version__, torch.__version__)
    if diff_phil:
        logger.info("The following parameters have been modified:\n\n%s", diff_phil)
    if params.compute.nthreads is not Auto:
        torch.set_num_threads(params.compute.nthreads)
    simulate(params, listed, files, inputs)


def simulate(params, listed, files, inputs) -> None:
    """Simulate what the parameters and the experiment list say."""
    form = writers.Form.of(params.output)
    sets = data_sets.data_sets(params, listed)
    images = []
    for path, data_set in zip(files.images, sets):
        form.check(data_set.images.models, data_set.images.detection.response.rounded)
        images += form.files(path, data_set.images.models, data_set.images.n_images)
    lives = live_writer.live_files(params, listed, files.images) if form.format == "live" else []
    images += [path for live in lives for path in live.paths]
    files.check_images(images, params.output, inputs)
    text = phil_scope.format(params).as_str()
    seeds = {
        "noise": params.noise.seed,
        "mosaic": crystal_params.mosaic_seed(params.crystal.mosaic),
    }
    if params.stills.count is not None:
        seeds["stills"] = params.stills.seed
    record = provenance.provenance(text, inputs, seeds)
    truths = [truth.Truth(one.images) for one in sets] if files.truth else [None] * len(sets)
    if lives:
        first = write_live(sets, truths, files, lives)
    else:
        first = write_images(sets, truths, files, record, form)
    written = []
    for data_set, path in zip(sets, files.images):
        written += experiments.output_experiments(data_set, path, form)
    if files.truth:
        truth.write(files.truth, truths, [experiment.identifier for experiment in written])
    if files.preview:
        model = sets[0].images.models
        preview.write_preview(files.preview, first, model.detector, model.beam)
        logger.info("Wrote a picture of the first image to %s", files.preview)
    provenance.write_json(files.provenance, record)
    experiments.write_experiments(files.experiments, written)
    logger.info("Wrote the experiment list to %s%s", files.experiments, form.note)


def write_images(sets, truths, files, record, form) -> list:
    """Write the images of all files; the pixel values of the very first."""
    firsts, total = [], sum(data_set.images.n_images for data_set in sets)
    bar = tqdm(total=total, unit="image", disable=not sys.stderr.isatty())
    with files.staged() as paths, bar:
        for data_set, path, true in zip(sets, paths, truths):
            first = sweep.run_sweep(data_set, path, record, form, bar.update, true)
            firsts = firsts or first
    for data_set, path in zip(sets, files.images):
        logger.info("Wrote %d images to %s", data_set.images.n_images, path)
    return firsts


def write_live(sets, truths, files, lives) -> list | None:
    """Write live files in place of images; the pixel values of the very first, for a picture."""
    for live, data_set, true in zip(live_writer.written(lives), sets, truths):
        for index in range(data_set.images.n_images if true else 0):
            true.add(index)
        logger.info("Wrote %s: %d images", live.path, data_set.images.n_images)
    images = sets[0].images
    return images.values(0, images.expected(0)) if files.preview else None


if __name__ == "__main__":
    run()
