"""Refine models against the pixels of shoeboxes.

Takes what dials.index, dials.refine or dials.integrate wrote, simulates the pixels around the
reflections and makes crystal, detector, beam, domains and scale such that the counts are most
likely. The experiments of a list are refined together: models that they share have one set of
parameters.

Examples::

  nanobragg.refine indexed.expt indexed.refl F.mtz crystal.mosaic.spread_deg=0.1 \\
    crystal.domain_size_ang=1000

  nanobragg.refine refined.expt refined.refl F.mtz refine.parameters=orientation+cell+scale

  nanobragg.refine still.expt still.refl F.mtz refine.restraint=detector_distance,0.1
"""

from __future__ import annotations

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx: torch keeps its threads

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

import torch
from dials.util import Sorry, log, show_mail_handle_errors, tabulate
from libtbx import Auto
from libtbx.phil import parse
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from nanobragg_plugin import phil as phil_files
from nanobragg_plugin.adapters import compared_files, geometry_phil, load, shoeboxes
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.command_line.refine_files import (
    Files,
    amplitudes_of,
    results,
    write,
)
from nanobragg_plugin.refine import report, schedule, several
from nanobragg_plugin.refine.along_scan import along_scans
from nanobragg_plugin.refine.several import Whole
from nanobragg_plugin.run import arguments, messages

logger = logging.getLogger("dials.nanobragg_plugin.command_line.refine")

#: Those of nanobragg.simulate's parameters that make the models.
SUBJECTS = "preset", "geometry", "structure_factors", "crystal", "beam", "sampling", "compute"


def _scope() -> Any:
    theirs = [one for one in adapt.master_scope().objects if one.name in SUBJECTS]
    texts = [one.as_str(attributes_level=3) for one in theirs]
    return parse("\n".join([phil_files.read("refine"), *texts]))


phil_scope = _scope()
USAGE = "nanobragg.refine models.expt reflections.refl [F.mtz] [parameters.phil] [name=value ...]"


@show_mail_handle_errors()
def run(args: list[str] | None = None) -> None:
    """The command."""
    with messages.clear(), messages.stoppable():
        _run(sys.argv[1:] if args is None else list(args))


def _run(args: list[str]) -> None:
    tables = [arg for arg in args if arg.endswith(".refl")]
    rest = [arg for arg in args if not arg.endswith(".refl")]
    if arguments.preset_of(rest) is not None:
        raise Sorry("preset: a refinement has the models of an experiment list; leave it out")
    params, options, listed, diff_phil = arguments.parse_command(rest, phil_scope, USAGE, __doc__)
    for what, given in (
        ("experiment list (.expt)", params.input.experiments),
        ("table of its reflections (.refl)", tables),
    ):
        if len(given) != 1:
            raise Sorry(f"give one {what}: there are {len(given) or 'none'}")
    arguments.check_readable(tables)
    name = params.input.experiments[0].filename
    files = Files.of(params.output, several.numbers_of(params.experiment, len(listed)))
    files.check(params.output, [name, *tables])
    log.config(verbosity=options.verbose, logfile=params.output.log)
    program = f"nanobragg.refine {nanobragg_plugin.__version__}, torch {torch.__version__}"
    logger.info("%s", program)
    if diff_phil:
        logger.info("The following parameters have been modified:\n\n%s", diff_phil)
    if params.compute.nthreads is not Auto:
        torch.set_num_threads(params.compute.nthreads)
    source = load.sweeps(compared_files.read_experiments(name, check_format=True))
    geometry_phil.override(source, params.geometry)
    table = compared_files.read_reflections(tables[0])
    if doubt := shoeboxes.doubt(table, source):
        logger.warning("%s", doubt)
    with _bar() as bar:
        made = several.whole(params, source, table, name, bar.update)
    for one in made.problems:
        logger.info("\nExperiment %d\n%s", one.number, "\n".join(one.notes))
    refine(params, made, table, files, {"program": program, "arguments": args})


def refine(params: Any, made: Whole, table: Any, files: Files, about: dict[str, Any]) -> None:
    """Refine, and write what was found; `Sorry` afterwards where that is not what was asked for.
    about: what is said of the run in the JSON and on the page."""

    def step(stage: Any, iteration: int, normal: Any, damping: float) -> None:
        if iteration == 0:
            logger.info("\nStage: %s", stage)
            return
        words = iteration, normal.loss, normal.chi_sqr / normal.n, damping
        logger.info("  %3d   loss %.8g   chi^2 a pixel %.5g   damping %.0e", *words)

    asked = schedule.asked_of(params.refine)
    with _bar() as bar:  # steps of much data take minutes
        target = made.target.watched(bar.update)
        ran = schedule.run(target, made.built, made.stages, asked, step, made.spots)
    target, found = ran.target, ran.found
    known = report.found_sigmas(target, found)
    content = {**about, **report.figures(target, found, known, ran.left)}
    content["stages"] = [{"stage": str(s), "losses": list(losses)} for s, losses in ran.stages]
    content["along_scan"] = along_scans(
        target, found, known, [one.first_index + 1 for one in made.problems]
    )
    _print(content)
    made_of = results(made, target, found, table)
    named = write(made, made_of, amplitudes_of(made, target, found, known), content, files)
    logger.info("Wrote %s", ", ".join(map(str, named)))
    reason = f"{found.reason}; the best so far is written"
    if found.stopped:
        logger.error("nanobragg.refine: %s", reason)
        sys.exit(found.stopped)
    if not found.converged:
        raise Sorry(f"the refinement did not converge: {reason}")
    missed = report.missed(target, found)
    if missed:
        raise Sorry(missed)
    undetermined = report.spoken(known, target.amplitudes)
    if undetermined:
        raise Sorry(report.undetermined(undetermined))


@contextlib.contextmanager
def _bar() -> Iterator[tqdm]:
    """Counts images on a terminal, below the lines of the log."""
    with tqdm(unit="image", disable=not sys.stderr.isatty(), leave=False) as bar:
        with contextlib.ExitStack() as stack:
            if not bar.disable:
                loggers = [logging.getLogger(one) for one in ("dials", "dxtbx", "py.warnings")]
                stack.enter_context(logging_redirect_tqdm(loggers))
            yield bar


def _print(content: dict) -> None:
    header = ["parameter", "unit", "start", "value", "sigma"]
    rows = report.rows_of(content)
    logger.info("\n%s", tabulate(rows, header, disable_numparse=True))
    if report.shortened(content):
        logger.info("%s", report.SHORTENED)
    for line in report.correlated(content):
        logger.info("%s", line)
    logger.info("chi^2 per degree of freedom: %.4f", content["chi_sqr_per_degree_of_freedom"])
    if content["amplitudes"]:
        logger.info("Amplitudes refined: %d", content["amplitudes"])
    if doubt := report.doubtful(content):
        logger.warning("%s", doubt)


if __name__ == "__main__":
    run()
