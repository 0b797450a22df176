"""Refine models against the pixels of shoeboxes.

Takes what dials.index, dials.refine or dials.integrate wrote, simulates the pixels around the
reflections and makes crystal, detector, beam, domains and scale such that the counts are most
likely. Of a list of experiments one is refined: experiment=.

Examples::

  nanobragg.refine indexed.expt indexed.refl F.mtz crystal.mosaic.spread_deg=0.1 \\
    crystal.domain_size_ang=1000

  nanobragg.refine refined.expt refined.refl F.mtz refine.parameters=orientation+cell+scale

  nanobragg.refine still.expt still.refl F.mtz refine.restraint=detector_distance,0.1
"""

from __future__ import annotations

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx: torch keeps its threads

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from dials.util import Sorry, log, show_mail_handle_errors, tabulate
from libtbx import Auto
from libtbx.phil import parse
from tqdm import tqdm

from nanobragg_plugin import phil as phil_files
from nanobragg_plugin.adapters import compared_files, geometry_phil, load, refined
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.refine import plots, report, schedule, sums
from nanobragg_plugin.refine.problem import Problem, problem
from nanobragg_plugin.run import arguments, experiments, messages, outputs, provenance

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
    if len(tables) != 1 or len(params.input.experiments) != 1:
        raise Sorry("give one experiment list (.expt) and its reflections (.refl)")
    arguments.check_readable(tables)
    if params.experiment >= len(listed):
        raise Sorry(f"experiment={params.experiment}: the list holds {len(listed)}, counted from 0")
    name = params.input.experiments[0].filename
    files = Files.of(params.output)
    files.check(params.output, [name, *tables])
    log.config(verbosity=options.verbose, logfile=params.output.log)
    logger.info("nanobragg.refine %s, torch %s", nanobragg_plugin.__version__, torch.__version__)
    if diff_phil:
        logger.info("The following parameters have been modified:\n\n%s", diff_phil)
    if params.compute.nthreads is not Auto:
        torch.set_num_threads(params.compute.nthreads)
    source = load.sweeps(compared_files.read_experiments(name, check_format=True))
    geometry_phil.override(source, params.geometry)
    table = compared_files.read_reflections(tables[0])
    with tqdm(unit="image", disable=not sys.stderr.isatty(), leave=False) as bar:
        made = problem(params, source[params.experiment], table, name, bar.update)
    logger.info("\n".join(made.notes))
    refine(params, made, table, files)


def refine(params: Any, made: Problem, table: Any, files: Files) -> None:
    """Refine, and write what was found; `Sorry` afterwards where that is not what was asked for."""

    def step(stage: Any, iteration: int, normal: Any, damping: float) -> None:
        if iteration == 0:
            logger.info("\nStage: %s", stage)
            return
        words = iteration, normal.loss, normal.chi_sqr / normal.n, damping
        logger.info("  %3d   loss %.8g   chi^2 a pixel %.5g   damping %.0e", *words)

    of = made.target, made.built, made.stages, params.refine.iterations
    target, found, all_found = schedule.run(*of, step, made.spots)
    known = report.found_sigmas(target, found)
    content = report.figures(target, found, known)
    stages = [(str(stage), one.losses) for stage, one in zip(made.stages, all_found)]
    content["stages"] = [{"stage": name, "losses": list(losses)} for name, losses in stages]
    _print(content)
    added = sums.sums(target, found.state, made.boxes)
    _write(made, target, found, content, (added, table, stages), files)
    if not found.converged:
        raise Sorry(f"the refinement did not converge: {found.reason}; the best so far is written")
    if known.undetermined:
        raise Sorry(report.undetermined(known))


def _print(content: dict) -> None:
    header = ["parameter", "unit", "start", "value", "sigma"]
    rows = report.rows_of(content)
    logger.info("\n%s", tabulate(rows, header, disable_numparse=True))
    for one in content["correlations"]:
        logger.info("  correlation of %s and %s: %.4f", *one["names"], one["correlation"])
    logger.info("chi^2 per degree of freedom: %.4f", content["chi_sqr_per_degree_of_freedom"])


def _write(made: Problem, target, found, content: dict, extra: tuple, files: Files) -> None:
    added, table, stages = extra
    model = target.model
    experiment, _ = model.models(model.parameters.outer(found.state.inner))
    values = dict(zip(model.parameters.names, model.parameters.outer(found.state.inner).tolist()))
    spreads = tuple(v for name, v in values.items() if name.startswith("mosaic_spread"))
    sigma = (sum(s * s for s in spreads) / len(spreads)) ** 0.5 if spreads else None
    written = refined.written(made.experiment, experiment, sigma)
    experiments.write_experiments(files.experiments, [written])
    columns = {
        "photons.centroid": added.centroid + [0, 0, _first(made)],
        "photons.model": added.model,
        "photons.background": added.background,
        "photons.counted": added.counts,
        "photons.chi_sqr": added.chi_sqr,
        "photons.pixels": added.pixels,
    }
    with outputs.whole(files.reflections) as temporary:
        refined.table_of(table, made.boxes.rows, columns).as_file(str(temporary))
    provenance.write_json(files.figures, content)
    provenance.write_text(files.phil, refined.phil_text(experiment, made.fluence, spreads))
    named = [files.experiments, files.reflections, files.figures, files.phil]
    if files.convergence is not None:
        crops = [(_title(table, made, box), crop) for box, crop in added.crops.items()]
        for path, picture in (
            (files.convergence, plots.convergence(stages, target.data.n)),
            (files.shoeboxes, plots.shoeboxes(crops)),
        ):
            with outputs.whole(path) as temporary:
                temporary.write_bytes(picture)
            named.append(path)
    logger.info("Wrote %s", ", ".join(map(str, named)))


def _first(made: Problem) -> int:
    """The array index of the first image."""
    scan = made.plan.dxtbx_experiment.scan
    return 0 if scan is None else scan.get_array_range()[0]


def _title(table: Any, made: Problem, box: int) -> str:
    return "counts of " + " ".join(map(str, table["miller_index"][int(made.boxes.rows[box])]))


@dataclass(frozen=True)
class Files:
    """What is written."""

    experiments: Path
    reflections: Path
    figures: Path
    phil: Path
    convergence: Path | None
    shoeboxes: Path | None

    @classmethod
    def of(cls, params: Any) -> Files:
        """From the extracted scope output."""
        if not params.prefix.strip() or params.prefix.endswith("/"):
            raise Sorry(f"output.prefix={params.prefix} names no file: give a name, as out/refined")
        ends = ".expt", ".refl", ".json", ".phil", "_convergence.png", "_shoeboxes.png"
        paths = [Path(f"{params.prefix}{end}") for end in ends]
        return cls(*paths[:4], *(paths[4:] if params.pictures else (None, None)))

    def check(self, params: Any, inputs: list[str]) -> None:
        """`Sorry` unless all can be written, over no input."""
        read = {Path(one).resolve() for one in inputs}
        for path in [one for one in vars(self).values() if one is not None]:
            if path.resolve() in read:
                raise Sorry(f"{path} is an input: give another output.prefix")
            outputs.check_writable(path, params.overwrite)


if __name__ == "__main__":
    run()
