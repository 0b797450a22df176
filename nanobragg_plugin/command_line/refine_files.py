"""What nanobragg.refine writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import refined, refined_amplitudes
from nanobragg_plugin.refine import page, plots, sums
from nanobragg_plugin.refine.amplitudes import name_of
from nanobragg_plugin.refine.joint import Joint
from nanobragg_plugin.refine.minimise import Found
from nanobragg_plugin.refine.problem import Problem
from nanobragg_plugin.refine.several import Whole
from nanobragg_plugin.refine.sigmas import Sigmas
from nanobragg_plugin.refine.sums import Sums
from nanobragg_plugin.run import experiments, outputs, provenance

#: Shoeboxes that are drawn.
MOST_CROPS = 24


@dataclass(frozen=True)
class Result:
    """Of one experiment: dxtbx's, with refined models; rows of its reflections in their table, and
    columns for them; phil: what simulating it takes besides; crops: pictures of shoeboxes, with
    their titles."""

    experiment: Any
    rows: np.ndarray
    columns: dict[str, np.ndarray]
    phil: str
    crops: list[tuple[str, np.ndarray]]


def results(made: Whole, target: Joint, found: Found, table: Any) -> tuple[list[Result], Any]:
    """Of all experiments, and the table of their reflections."""
    each = []
    several = len(made.problems) > 1
    for one, own, state in zip(made.problems, target.own, target.states(found.state)):
        parameters = own.model.parameters
        outer = parameters.outer(state.inner)
        experiment, _ = own.model.models(outer)
        values = dict(zip(parameters.names, outer.tolist()))
        spreads = tuple(v for name, v in values.items() if name.startswith("mosaic_spread"))
        sigma = (sum(s * s for s in spreads) / len(spreads)) ** 0.5 if spreads else None
        divergence = ""
        if "divergence" in values:
            ratio = values["divergence"] / parameters["divergence"].value
            pairs = zip("hv", made.divergence)
            divergence = "".join(f"beam.{way}divrange_mrad={ratio * x:.8g}\n" for way, x in pairs)
        added = sums.sums(own, state, one.boxes, 4 if several else 12)
        of = f"experiment {one.number}: " if several else ""
        crops = [(of + _title(table, one, box), crop) for box, crop in added.crops.items()]
        each.append(
            Result(
                refined.written(one.experiment, experiment, sigma, one.images_before),
                one.boxes.rows,
                _columns(added, one),
                refined.phil_text(experiment, made.fluence, spreads) + divergence,
                crops,
            )
        )
    refined.shared_as([one.experiment for one in made.problems], [one.experiment for one in each])
    columns = {
        name: np.concatenate([one.columns[name] for one in each]) for name in each[0].columns
    }
    rows = np.concatenate([one.rows for one in each])
    numbers = [one.number for one in made.problems]
    return each, refined.table_of(table, rows, columns, numbers)


def _columns(added: Sums, one: Problem) -> dict[str, np.ndarray]:
    return {
        "photons.centroid": added.centroid + [0, 0, one.first_index],
        "photons.model": added.model,
        "photons.background": added.background,
        "photons.counted": added.counts,
        "photons.chi_sqr": added.chi_sqr,
        "photons.pixels": added.pixels,
    }


def amplitudes_of(
    made: Whole, target: Joint, found: Found, known: Sigmas
) -> tuple[np.ndarray, np.ndarray] | None:
    """F [n] and sigma [n] of the amplitudes that were refined, or None."""
    if made.amplitudes is None:
        return None
    values = dict(zip(target.model.parameters.names, found.state.inner.tolist()))
    sigmas = dict(zip(known.names, known.sigma.tolist()))
    names = [name_of(hkl) for hkl in made.amplitudes.hkl.tolist()]
    return np.array([values[n] for n in names]), np.array([sigmas.get(n, np.inf) for n in names])


def write(
    made: Whole,
    found: tuple[list[Result], Any],
    amplitudes: tuple[np.ndarray, np.ndarray] | None,
    content: dict,
    files: Files,
) -> list[Path]:
    """All files; their names. amplitudes: see `amplitudes_of`; content: all figures."""
    each, table = found
    experiments.write_experiments(files.experiments, [one.experiment for one in each])
    with outputs.whole(files.reflections) as temporary:
        table.as_file(str(temporary))
    provenance.write_json(files.figures, content)
    named = [files.experiments, files.reflections, files.figures]
    if amplitudes is not None:
        with outputs.whole(files.amplitudes) as temporary:
            refined_amplitudes.write_mtz(str(temporary), made.amplitudes, *amplitudes)
        named.append(files.amplitudes)
    for path, result in zip(files.phil, each):
        provenance.write_text(path, result.phil)
        named.append(path)
    stages = [(one["stage"], one["losses"]) for one in content["stages"]]
    crops = [crop for one in each for crop in one.crops][:MOST_CROPS]
    pictures = {
        files.convergence: lambda: plots.convergence(stages, content["pixels"]),
        files.shoeboxes: lambda: plots.shoeboxes(crops),
    }
    if content["along_scan"]:
        pictures[files.along_scan] = lambda: plots.along_scans(content["along_scan"])
    drawn = {path: draw() for path, draw in pictures.items() if path is not None}
    for path, picture in drawn.items():
        with outputs.whole(path) as temporary:
            temporary.write_bytes(picture)
    named += drawn
    if files.html is not None:
        provenance.write_text(files.html, page.page(content, list(drawn.values())))
        named.append(files.html)
    return named


def _title(table: Any, made: Problem, box: int) -> str:
    return "counts of " + " ".join(map(str, table["miller_index"][int(made.boxes.rows[box])]))


@dataclass(frozen=True)
class Files:
    """What is written; phil: of each experiment."""

    experiments: Path
    reflections: Path
    figures: Path
    amplitudes: Path
    phil: tuple[Path, ...]
    convergence: Path | None
    shoeboxes: Path | None
    along_scan: Path | None
    html: Path | None

    @classmethod
    def of(cls, params: Any, numbers: list[int]) -> Files:
        """From the extracted scope output, and which experiments are refined."""
        prefix = params.prefix
        if not prefix.strip() or prefix.endswith("/"):
            raise Sorry(f"output.prefix={prefix} names no file: give a name, as out/refined")
        several = len(numbers) > 1
        phil = tuple(Path(f"{prefix}_{n}.phil" if several else f"{prefix}.phil") for n in numbers)
        ends = ".expt", ".refl", ".json", ".mtz"
        drawn = "_convergence.png", "_shoeboxes.png", "_scan_varying.png", ".html"
        paths = [Path(f"{prefix}{end}") for end in ends]
        pictures = [Path(f"{prefix}{end}") if params.pictures else None for end in drawn]
        return cls(*paths, phil, *pictures)

    def check(self, params: Any, inputs: list[str]) -> None:
        """`Sorry` unless all can be written, over no input."""
        read = {Path(one).resolve() for one in inputs}
        paths = [one for one in vars(self).values() if isinstance(one, Path)]
        for path in [*paths, *self.phil]:
            if path.resolve() in read:
                raise Sorry(f"{path} is an input: give another output.prefix")
            outputs.check_writable(path, params.overwrite)
