"""From dxtbx's models to what may be refined of them, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cctbx import uctbx
from libtbx.utils import Sorry
from torch import Tensor

from nanobragg_plugin import mosaic
from nanobragg_plugin.adapters import checks, crystal_params, detector_levels
from nanobragg_plugin.adapters.models import crystal_orientation, goniometer
from nanobragg_plugin.adapters.shared_models import same_model
from nanobragg_plugin.cell import b_matrix
from nanobragg_plugin.models import Experiment

NAMES = ("a", "b", "c", "alpha", "beta", "gamma")


@dataclass(frozen=True)
class FreeCell:
    """cells [points, 6]; names and values of the free numbers of the first; matrix [6, free]."""

    cells: Tensor
    names: tuple[str, ...]
    values: tuple[float, ...]
    matrix: Tensor


def free_cell(crystal: Any) -> FreeCell:
    """Which of a, b, c and the angles of a dxtbx crystal its space group leaves free, and what goes
    with each; by cctbx's average_unit_cell. `Sorry` where they are not tied simply, as in an
    unusual setting."""
    group = crystal.get_space_group()
    cells = np.array([_cell(a.numpy()) for a in crystal_orientation(crystal)])
    # what the group makes of changes of each number: a projection on what it allows
    start = np.array(group.average_unit_cell(uctbx.unit_cell(tuple(cells[0]))).parameters())
    allowed = np.zeros((6, 6))
    for number in range(6):
        size = 1e-3 * start[0] if number < 3 else 0.05
        for sign in (1, -1):
            changed = start.copy()
            changed[number] += sign * size
            made = group.average_unit_cell(uctbx.unit_cell(tuple(changed))).parameters()
            allowed[:, number] += sign * (np.array(made) - start) / (2 * size)
    columns, names = [], []
    for number in range(6):
        if any(column[number] for column in columns):
            continue
        column = np.where(np.abs(allowed[:, number]) > 1e-3, 1.0, 0.0)
        if column[number]:
            columns.append(column)
            names.append(NAMES[number])
    matrix = np.stack(columns, axis=1)
    tried = start + matrix @ np.array([0.01 * start[NAMES.index(n)] / 3 for n in names])
    kept = group.average_unit_cell(uctbx.unit_cell(tuple(tried))).parameters()
    if np.abs(np.array(kept) - tried).max() > 1e-3:
        raise Sorry(
            f"the cell of {group.info()} is not refined in this setting, in which its numbers "
            "depend on each other: reindex to a conventional one, or leave out refine.parameters "
            "cell"
        )
    values = tuple(float(cells[0][NAMES.index(name)]) for name in names)
    return FreeCell(torch.from_numpy(cells), tuple(names), values, torch.from_numpy(matrix))


def _cell(a_matrix: np.ndarray) -> np.ndarray:
    real = np.linalg.inv(a_matrix)
    lengths = np.linalg.norm(real, axis=1)
    cosines = (real @ real.T) / np.outer(lengths, lengths)
    angles = [np.degrees(np.arccos(cosines[i, j])) for i, j in ((1, 2), (0, 2), (0, 1))]
    return np.array([*lengths, *angles])


@dataclass(frozen=True)
class Spreads:
    """Of a crystal's domains: degrees, one number or three (about the columns of frame [3, 3]);
    how many, how and by which seed they are drawn."""

    degrees: tuple[float, ...]
    domains: int
    distribution: str
    seed: int
    frame: Tensor | None


def spreads(params: Any, crystal: Any, three: bool) -> Spreads | None:
    """Of the extracted scope `crystal` and a dxtbx crystal; three: whether about three axes; None:
    no spread. `Sorry` for what is not refined."""
    if params.cell_spread_percent or params.domain_size_spread_percent:
        raise Sorry(
            "crystal.cell_spread_percent and .domain_size_spread_percent are not refined, nor "
            "simulated in a refinement: leave them at 0"
        )
    scope = params.mosaic
    degrees = scope.spread_abc_deg or (
        [scope.spread_deg]
        if scope.spread_deg is not None
        else [crystal_params.mosaic_model(crystal).sigma_deg or 0.0]
    )
    if max(degrees) <= 0:
        return None
    if three and scope.distribution == "cap":
        raise Sorry("refine.spreads=three: a cap has one spread; give crystal.mosaic.distribution")
    if three and len(degrees) == 1:
        degrees = list(degrees) * 3
    if min(degrees) <= 0:
        raise Sorry("crystal.mosaic.spread_abc_deg: each must be above 0 to be refined")
    frame = mosaic.crystal_frame(crystal_orientation(crystal)[0]) if len(degrees) == 3 else None
    seed = crystal_params.mosaic_seed(scope)
    return Spreads(tuple(degrees), scope.domains, scope.distribution, seed, frame)


def written(experiment: Any, refined: Experiment, spread_deg: float | None, before: int = 0) -> Any:
    """A copy of a dxtbx experiment with refined models, which may be those of some images of its
    scan, `before` images after its first: what varies along the scan keeps the changes of the
    first and last of these in the images outside. spread_deg: for a crystal whose class has a
    mosaic model."""
    result = copy.copy(experiment)
    for name in ("beam", "detector", "goniometer", "crystal"):
        setattr(result, name, copy.deepcopy(getattr(experiment, name)))
    points = 1 if experiment.scan is None else experiment.scan.get_num_images() + 1
    matrices = _whole_scan(
        refined.crystal.A, crystal_orientation(experiment.crystal), before, points, _carried
    )
    matrices = [tuple(a.flatten().tolist()) for a in matrices]
    result.crystal.set_A(matrices[len(matrices) // 2])
    if len(matrices) > 1:
        result.crystal.set_A_at_scan_points(matrices)
    if hasattr(result.crystal, "reset_unit_cell_errors"):
        result.crystal.reset_unit_cell_errors()
    if spread_deg is not None and hasattr(result.crystal, "set_mosaicity"):
        result.crystal.set_mosaicity(spread_deg)
    if spread_deg is not None and hasattr(result.crystal, "set_half_mosaicity_deg"):
        result.crystal.set_half_mosaicity_deg(spread_deg / crystal_params.TOP_HAT)
    _write_beam(result.beam, refined, before, points)
    detector_levels.write(result.detector, refined.panels)
    if result.goniometer is not None:
        axis = refined.goniometer.axis
        result.goniometer.set_rotation_axis_datum(tuple(axis.tolist()))
        settings = _whole_scan(
            refined.goniometer.setting,
            goniometer(experiment.goniometer).setting,
            before,
            points,
            lambda end, base, other: end @ base.T @ other,
        )
        settings = [tuple(one.flatten().tolist()) for one in settings]
        result.goniometer.set_setting_rotation(settings[0])
        if checks.scan_points(experiment.goniometer):
            result.goniometer.set_setting_rotation_at_scan_points(settings)
    return result


def _whole_scan(
    values: Tensor,
    base: Tensor,
    before: int,
    points: int,
    carried: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Of values at some scan points [n, ...], the first of which is `before` points after the
    scan's, those at all; base [1 or points, ...]: what they were. carried: what a value becomes
    outside, from the end's, what that was, and what it was itself. Of one value: it."""
    if len(values) == 1:
        return values
    base = base if len(base) > 1 else base.expand(points, *base.shape[1:])
    last = before + len(values) - 1
    left = [carried(values[0], base[before], base[i]) for i in range(before)]
    right = [carried(values[-1], base[last], base[i]) for i in range(last + 1, points)]
    return torch.stack([*left, *values, *right])


def _carried(end: Tensor, base: Tensor, other: Tensor) -> Tensor:
    """A matrix `other`, U B, with the turn and the change of cell that made `end` of `base`."""
    (u_end, b_end), (u_base, b_base), (u, b) = map(_turn_and_cell, (end, base, other))
    return u_end @ u_base.T @ u @ b @ torch.linalg.inv(b_base) @ b_end


def _turn_and_cell(a_matrix: Tensor) -> tuple[Tensor, Tensor]:
    b = b_matrix(torch.from_numpy(_cell(a_matrix.numpy())))
    return a_matrix @ torch.linalg.inv(b), b


def shared_as(experiments: list[Any], results: list[Any]) -> list[Any]:
    """The results, copies of experiments, with models shared where those share them, but crystals
    that vary along different scans."""
    for name in ("beam", "detector", "goniometer", "crystal"):
        for number, experiment in enumerate(experiments):
            pairs = zip(experiments[:number], results)
            varies = name == "crystal" and checks.scan_points(results[number].crystal) > 0
            first = (
                done
                for one, done in pairs
                if same_model(one, experiment, name)
                and (not varies or same_model(one, experiment, "scan"))
            )
            setattr(results[number], name, getattr(next(first, results[number]), name))
    return results


def _write_beam(beam: Any, refined: Experiment, before: int, points: int) -> None:
    if checks.scan_points(beam):
        vectors = _whole_scan(
            refined.beam.direction[:, 0] / refined.beam.wavelength[:, :1],
            torch.tensor(list(beam.get_s0_at_scan_points()), dtype=torch.float64),
            before,
            points,
            lambda end, base, other: other + end - base,
        )
        beam.set_s0_at_scan_points([tuple(one.tolist()) for one in vectors])
    weight = refined.beam.weight / refined.beam.weight.sum()
    mean = (refined.beam.direction * weight[:, None]).sum(1)[0]
    wavelength = float((refined.beam.wavelength[0] * weight).sum())
    unit = mean / torch.linalg.vector_norm(mean)
    beam.set_s0(tuple((unit / wavelength).tolist()))


def phil_text(refined: Experiment, fluence: float | None, spreads_deg: tuple[float, ...]) -> str:
    """What nanobragg.simulate needs beside the refined models; fluence: photons/m^2, where nothing
    else says it."""
    crystal = refined.crystal
    cells = ",".join(f"{n:.6f}" for n in crystal.Ncells_abc.tolist())
    lines = [
        f"crystal.Ncells_abc={cells}",
        "crystal.domain_size_ang=None",
        f"crystal.spot_scale={float(crystal.spot_scale):.8g}",
    ]
    if spreads_deg:
        three = len(spreads_deg) == 3
        values = ",".join(f"{spread:.8f}" for spread in spreads_deg)
        lines += [
            f"crystal.mosaic.spread_{'abc_' if three else ''}deg={values}",
            f"crystal.mosaic.spread_{'' if three else 'abc_'}deg=None",
            f"crystal.mosaic.domains={len(crystal.umats)}",
        ]
    if fluence is not None:
        lines.append(f"beam.fluence={fluence:.8g}")
    return "\n".join(lines) + "\n"


def table_of(
    table: Any, rows: np.ndarray, columns: dict[str, np.ndarray], numbers: list[int]
) -> Any:
    """A DIALS table of the rows that were refined against, with further columns [n] or [n, 3], for
    a list of the experiments of these numbers. Those in whose boxes the model has photons are
    marked as used in refinement."""
    from dials.array_family import flex

    made = table.select(flex.size_t(rows.astype(np.uint64)))
    for name, values in columns.items():
        values = np.ascontiguousarray(values, dtype=float)
        made[name] = flex.vec3_double(values) if values.ndim == 2 else flex.double(values)
    _renumber(made, numbers)
    known = np.isfinite(columns["photons.centroid"]).all(axis=1)
    made.unset_flags(flex.bool(len(made), True), made.flags.used_in_refinement)
    made.set_flags(flex.bool(known), made.flags.used_in_refinement)
    return made


def _renumber(table: Any, numbers: list[int]) -> None:
    """Make the ids of a table, which are these numbers, count from 0."""
    from dials.array_family import flex

    new = {number: place for place, number in enumerate(numbers)}
    identifiers = table.experiment_identifiers()
    known = {number: identifiers[number] for number in identifiers.keys()}
    table["id"] = flex.int([new[number] for number in table["id"]])
    for number in known:
        del identifiers[number]
    for number, identifier in known.items():
        if number in new:
            identifiers[new[number]] = identifier
