"""What can be compared of the files that are given, and its figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import compared_files, compared_images, compared_tables
from nanobragg_plugin.adapters import merged as merged_adapter
from nanobragg_plugin.adapters.compared_files import Side
from nanobragg_plugin.adapters.phil_values import word
from nanobragg_plugin.compare import images, merged, models, reflections, sections
from nanobragg_plugin.compare.truth import CrystalComparison

POSSIBLE = (
    "two experiment lists, two image files (or one that holds the photons expected), "
    " two reflection tables, two MTZ files, or one of "
    "scaled reflections and an MTZ file"
)


@dataclass(frozen=True)
class Part:
    """One comparison. figures: as JSON has them, but for arrays and NaN (see `plain`)."""

    name: str
    figures: Any
    section: sections.Section


@dataclass(frozen=True)
class Opened:
    """A side: the names of its files, and of them what is read at once."""

    files: Side
    experiments: Any
    table: Any


def compare(sides: tuple[Opened, Opened], params: Any, tick: Callable[[], Any]) -> list[Part]:
    """All comparisons of two sides; `Sorry` where there is none, or a file takes part in none."""
    pairs, crystals = None, None
    used: set[str | None] = set()
    parts = []
    if sides[0].files.experiments and sides[1].files.experiments:
        pairs, how = models.pairs_of(*(side.experiments for side in sides))
        crystals = _crystals(sides, pairs)
        parts.append(_models(sides, pairs, how))
        used |= {side.files.experiments for side in sides}
    parts += _images(sides, params, tick, used)
    parts += _reflections(sides, params, crystals, used)
    parts += _merged(sides, params, crystals, used)
    given = [name for side in sides for name in side.files.names()]
    if not parts:
        raise Sorry(f"nothing of {', '.join(given)} can be compared: give {POSSIBLE}")
    for name in given:
        if name not in used:
            raise Sorry(
                f"{name} cannot be compared with any other of the files: possible are {POSSIBLE}"
            )
    return parts


def open_sides(true: Side, other: Side) -> tuple[Opened, Opened]:
    """Read lists and tables, and put a table and an MTZ file to their sides: a truth table is the
    truth, else the MTZ file is."""
    lists = [
        s.experiments and compared_files.read_experiments(s.experiments) for s in (true, other)
    ]
    tables = [
        s.reflections and compared_files.read_reflections(s.reflections) for s in (true, other)
    ]
    if true.merged and not other.merged and true.reflections and not other.reflections:
        if "f_squared" in tables[0]:
            true, other = replace(true, merged=None), replace(other, merged=true.merged)
        else:
            other = replace(other, reflections=true.reflections)
            true, tables = replace(true, reflections=None), tables[::-1]
    if tables[0] and tables[1] and "f_squared" in tables[1] and "f_squared" not in tables[0]:
        raise Sorry(f"{other.reflections} is a truth table: give it before {true.reflections}")
    return Opened(true, lists[0] or None, tables[0]), Opened(other, lists[1] or None, tables[1])


def _crystals(sides: tuple, pairs: list) -> dict[int, tuple[int, np.ndarray]]:
    """Of each of the other's experiments the true one and the matrix between their indices, where
    they have one lattice."""
    found = {}
    for at, number in pairs:
        result = models.crystal_or_reason(
            sides[0].experiments[at].crystal, sides[1].experiments[number].crystal
        )
        if isinstance(result, CrystalComparison):
            found[number] = (at, result.reindex)
    return found


def _models(sides: tuple, pairs: list, how: str) -> Part:
    figures = [
        {
            "true": a,
            "other": b,
            **models.compare_models(sides[0].experiments[a], sides[1].experiments[b]),
        }
        for a, b in pairs
    ]
    return Part("models", figures, sections.of_models(figures, how))


def _images(sides: tuple, params: Any, tick: Callable, used: set) -> list[Part]:
    """Pixels, where each side has an image file, or its experiments' images are asked for; the only
    ones are compared with the photons that their file says were expected."""
    opened = []
    for side in sides:
        name, experiments = side.files.images, side.files.experiments
        if name:
            opened.append(compared_images.open_images(name))
        elif params.images.of_experiments and experiments:
            listed = compared_files.read_experiments(experiments, check_format=True)
            opened.append(compared_images.images_of(experiments, listed))
    if not opened:
        if params.images.of_experiments:
            raise Sorry("images.of_experiments=True: there is no experiment list")
        return []
    if len(opened) == 1:
        opened.insert(0, compared_images.expected_of(opened[0]))
    used |= {image.name for image in opened}
    given, truth = params.images, word(params.images.truth)
    first, last = given.image_range or (None, None)
    settings = images.Settings(
        first,
        last,
        truth == "expected" or (truth == "auto" and not opened[0].counts),
        given.minimum,
        given.readout_noise_adu,
        given.map,
        params.shells,
    )
    figures, kept = images.compare_images(*opened, settings, tick)
    return [Part("images", figures, sections.of_images(figures, kept))]


def _reflections(sides: tuple, params: Any, crystals: Any, used: set) -> list[Part]:
    """Two tables."""
    if sides[0].table is None or sides[1].table is None:
        return []
    given = params.reflections
    lists = sides[0].experiments, sides[1].experiments or sides[0].experiments
    if lists[0] is None:
        lists = lists[1], lists[1]
    names = [[], []] if lists[0] is None else compared_tables.groups(*lists)
    spots = [
        compared_tables.spots_of(side.table, side.files.reflections, experiments, name, which)
        for side, experiments, name, which in zip(
            sides, lists, names, ("auto", word(given.intensity))
        )
    ]
    if spots[1].placed_by == "predicted":
        spots[0] = compared_tables.by_prediction(spots[0])
    if lists[0] is not None and len(lists[0][0].detector) != len(lists[1][0].detector):
        raise Sorry("the experiment lists are of different detectors: panels cannot be told")
    settings = reflections.Settings(
        given.threshold,
        (given.tolerance_px, given.tolerance_px, given.tolerance_images),
        given.scale,
        given.min_partiality,
        params.shells,
    )
    figures = reflections.compare_reflections(*spots, settings, crystals)
    used |= {side.files.reflections for side in sides} | {side.files.experiments for side in sides}
    return [Part("reflections", figures, sections.of_reflections(figures))]


def _merged(sides: tuple, params: Any, crystals: Any, used: set) -> list[Part]:
    """Merged intensities: two MTZ files, one and a table, or scaled reflections and a truth
    table."""
    true, other = sides
    mtz = bool(true.files.merged or other.files.merged)
    is_truth = true.table is not None and "f_squared" in true.table
    is_scaled = other.table is not None and "intensity.scale.value" in other.table
    listed = true.experiments or other.experiments
    known = bool(listed) and listed[0].crystal is not None
    if mtz and is_truth and not true.files.merged and not known:
        raise Sorry(
            f"{true.files.reflections} and an MTZ file: give the true experiment list too, whose "
            "crystal has the cell and space group"
        )
    if mtz and other.table is not None and not (is_scaled or other.files.merged or true.table):
        raise Sorry(f"{other.files.reflections} has no scaled intensities: run dials.scale")
    if not (true.files.merged or (is_truth and known)) or not (other.files.merged or is_scaled):
        return []
    if true.files.merged:
        expected = _array(true.files.merged, params, "true_labels")
    else:
        expected = merged_adapter.true_of_table(true.table, listed[0])
    if other.files.merged:
        found = merged_adapter.common(_array(other.files.merged, params, "other_labels"), expected)
    elif crystals == {}:
        raise Sorry(
            f"the intensities of {other.files.reflections} cannot be compared: its crystals have "
            "not the lattices of the true ones"
        )
    else:
        matrices = None if crystals is None else {n: m for n, (_, m) in crystals.items()}
        found = merged_adapter.common_intensities(other.table, matrices, expected)
    if not len(found.d):
        raise Sorry("no unique reflection is on both sides: are cells and indices alike?")
    used |= {name for s in sides for name in (s.files.merged, s.files.reflections)}
    if any(side.table is not None for side in sides):
        used |= {side.files.experiments for side in sides}
    figures = merged.compare_merged(found, params.shells)
    section = sections.of_merged(figures, figures["scale"] * found.true, found.found)
    return [Part("merged", figures, section)]


def _array(name: str, params: Any, labels: str) -> Any:
    return compared_files.read_merged(name, getattr(params.merged, labels), f"merged.{labels}")


def plain(value: Any) -> Any:
    """Figures as JSON has them: lists for arrays, null for what is not finite."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
