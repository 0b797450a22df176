"""Shoeboxes of a DIALS reflection table: their pixels, and what was counted in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dxtbx.model import ExperimentList
from libtbx.utils import Sorry
from scitbx.array_family import flex

from nanobragg_plugin.adapters import checks, compared_images, dxtbx_versions
from nanobragg_plugin.adapters.compared_tables import d_of_places

#: Half the edge of the box of a reflection that has none, pixels and images.
HALF_PX, HALF_IMAGES = 4, 1.0
#: Pixels or images from the first, beyond which a place is none.
FARTHEST = 1e6


@dataclass(frozen=True)
class Boxes:
    """rows [n]: of the reflections in their table; panel [n]; limits [n, 6]: first and last + 1
    fast, slow, image (from 0); notes: lines for the log."""

    rows: np.ndarray
    panel: np.ndarray
    limits: np.ndarray
    notes: tuple[str, ...]


def boxes_of(params: Any, table: Any, number: int, experiment: Any) -> Boxes:
    """The boxes of the reflections of experiment `number` of a list that are indexed; params: the
    PHIL scope refine.shoeboxes, extracted; experiment: dxtbx's, of the images wanted."""
    for name in ("id", "panel"):
        if name not in table:
            raise Sorry(f"the reflections have no column {name!r}: give those of dials.index")
    # of many stills each would else read the table of all
    ids = table["id"].as_numpy_array()
    own = np.flatnonzero(ids == _id_of(table, number, experiment))
    whole, table = len(table), _rows_of(table, own)
    hkl = np.array(table["miller_index"]).reshape(-1, 3) if "miller_index" in table else None
    if hkl is None or (len(own) and not hkl.any()):
        raise Sorry("the reflections are not indexed: give those of dials.index or dials.refine")
    places = _places(table)
    nowhere = ~(np.isfinite(places).all(axis=1) & (np.abs(places) < FARTHEST).all(axis=1))
    places = np.where(nowhere[:, None], 0.0, places)
    still = experiment.scan is None or experiment.goniometer is None
    limits = _limits(table, places, still)
    mine, notes = _usable(
        table, hkl.any(axis=1), nowhere, limits, None if still else experiment.scan
    )
    notes.insert(0, f"Reflections: {whole}, of this experiment and indexed {int(hkl.any(1).sum())}")
    panel = np.array(table["panel"], dtype=int)
    if params.d_min is not None:
        d = _resolution(experiment, panel, places)
        mine &= d >= params.d_min
    border = [params.border_px, params.border_px, params.border_images]
    for axis in range(3):
        limits[:, 2 * axis] -= border[axis]
        limits[:, 2 * axis + 1] += border[axis]
    limits, inside = _clipped(limits, panel, experiment)
    if (mine & ~inside).any():
        notes.append(f"Left out, beyond the panels and images: {int((mine & ~inside).sum())}")
    rows = np.flatnonzero(mine & inside)
    once = _first_of_same(hkl[rows], panel[rows], limits[rows])
    if len(once) < len(rows):
        notes.append(f"Left out, as they stand there twice: {len(rows) - len(once)}")
    rows = rows[once]
    if params.most is not None and len(rows) > params.most:
        if "intensity.sum.value" not in table:
            raise Sorry("refine.shoeboxes.most: the reflections have no intensity.sum.value")
        strength = np.array(table["intensity.sum.value"])[rows]
        rows = np.sort(rows[np.argsort(-strength, kind="stable")[: params.most]])
        notes.append(f"The strongest {params.most} are taken")
    if len(rows) == 0:
        raise Sorry(
            "no shoebox is left: no indexed reflection of this experiment lies on its images and "
            "panels (see refine.shoeboxes.d_min, sampling.image_range, experiment=)"
        )
    notes.append(f"Shoeboxes: {len(rows)}")
    return Boxes(own[rows], panel[rows], limits[rows], tuple(notes))


def _usable(
    table: Any, mine: np.ndarray, nowhere: np.ndarray, limits: np.ndarray, scan: Any
) -> tuple[np.ndarray, list[str]]:
    """Which of `mine` [n] are neither rejected by DIALS nor `nowhere`, and lines for the log; scan:
    None of stills."""
    wrong = _rejected(table)
    kept = np.zeros(len(table), bool) if scan is None else _cut_off(table, mine, limits, scan)
    left_out = {
        "as DIALS has marked them for it": mine & wrong & ~kept,
        "as their places are no numbers": mine & (~wrong | kept) & nowhere,
    }
    notes = [f"Left out, {why}: {int(one.sum())}" for why, one in left_out.items() if one.any()]
    mine = mine & (~wrong | kept) & ~nowhere
    if (mine & kept).any():
        count = int((mine & kept).sum())
        notes.append(f"Outliers only as the scan's ends cut them off, which are used: {count}")
    return mine, notes


def _rows_of(table: Any, rows: np.ndarray) -> Any:
    """Those rows of a table, or of a column."""
    return table.select(flex.size_t(rows.astype(np.uint64)))


def indices(boxes: Boxes, table: Any) -> np.ndarray:
    """int [n, 3]: h k l of the boxes."""
    return np.array(_rows_of(table["miller_index"], boxes.rows)).reshape(-1, 3)


def _id_of(table: Any, number: int, experiment: Any) -> int:
    """What the table calls experiment `number` of the list: by its identifier, if both have it."""
    ids = dict(table.experiment_identifiers())
    named = [one for one, name in ids.items() if name and name == experiment.identifier]
    return named[0] if named else number


def doubt(table: Any, experiments: Any) -> str:
    """A warning where a table does not look like that of an experiment list; "" where it does."""
    ids = set(table["id"]) if "id" in table else set()
    theirs = {name for name in dict(table.experiment_identifiers()).values() if name}
    ours = {one.identifier for one in experiments if one.identifier}
    if theirs and ours and not theirs & ours:
        return "WARNING: no experiment identifier of the reflections is in the experiment list"
    if len(ids - {-1}) > len(experiments):
        return (
            f"WARNING: the reflections are of {len(ids - {-1})} experiments, the list holds "
            f"{len(experiments)}: those of the others are left out"
        )
    return ""


def _rejected(table: Any) -> np.ndarray:
    """[n]: which reflections DIALS found to be overloaded, or indexed wrongly."""
    if "flags" not in table:
        return np.zeros(len(table), bool)
    kinds = ("centroid_outlier", "overloaded")
    found = [table.get_flags(getattr(table.flags, kind)).as_numpy_array() for kind in kinds]
    return np.any(found, axis=0)


def _first_of_same(*columns: np.ndarray) -> np.ndarray:
    """Which rows have no other before them with the same numbers in all columns [n] or [n, k]."""
    whole = np.column_stack(columns)
    return np.sort(np.unique(whole, axis=0, return_index=True)[1])


def _cut_off(table: Any, mine: np.ndarray, limits: np.ndarray, scan: Any) -> np.ndarray:
    """[n]: which of `mine` are outliers by their angle alone, as they begin before the scan or end
    after it: their centroids are off, but a model of pixels knows how much of them is seen.
    On the detector they are no further off than the furthest of those that are no outliers."""
    none = np.zeros(len(table), bool)
    if "flags" not in table or not {"xyzobs.px.value", "xyzcal.px"} <= set(table.keys()):
        return none
    outlier = table.get_flags(table.flags.centroid_outlier).as_numpy_array()
    overloaded = table.get_flags(table.flags.overloaded).as_numpy_array()
    places = (np.array(table[name]).reshape(-1, 3) for name in ("xyzobs.px.value", "xyzcal.px"))
    off = np.abs(np.subtract(*places))[:, :2]
    good = mine & ~outlier & _observed(table)
    if not good.any():
        return none
    first, end = scan.get_array_range()
    at_ends = (limits[:, 4] <= first) | (limits[:, 5] >= end)
    near = (off <= off[good].max(0)).all(axis=1)
    return mine & outlier & ~overloaded & at_ends & near & _observed(table)


def _places(table: Any) -> np.ndarray:
    """[n, 3] fast, slow, image, where spots were found, else where they are predicted."""
    names = [name for name in ("xyzobs.px.value", "xyzcal.px") if name in table]
    if not names:
        raise Sorry("the reflections have no positions: neither xyzobs.px.value nor xyzcal.px")
    places = np.array(table[names[0]]).reshape(-1, 3)
    if len(names) == 2:
        predicted = np.array(table[names[1]]).reshape(-1, 3)
        places = np.where(_observed(table)[:, None], places, predicted)
    return places


def _observed(table: Any) -> np.ndarray:
    """[n]: whether a spot was found where the table says: dials.integrate has places of all that
    it predicts, of those that it did not integrate 0."""
    found = np.ones(len(table), bool)
    if "xyzobs.px.value" not in table:
        return ~found
    return found & np.array(table["xyzobs.px.value"]).reshape(-1, 3).any(axis=1)


def _limits(table: Any, places: np.ndarray, still: bool) -> np.ndarray:
    """[n, 6] of the table's bbox, or around the places where there is none."""
    made = np.empty((len(places), 6), dtype=int)
    half = HALF_PX, HALF_PX, HALF_IMAGES
    for axis in range(3):
        made[:, 2 * axis] = np.floor(places[:, axis] - half[axis] + 0.5)
        made[:, 2 * axis + 1] = np.ceil(places[:, axis] + half[axis] - 0.5).astype(int) + 1
    if "bbox" in table:
        given = np.array(table["bbox"]).reshape(-1, 6)
        there = (given[:, 1] > given[:, 0]) & (given[:, 3] > given[:, 2])
        made[there] = given[there]
    if still:
        made[:, 4], made[:, 5] = 0, 1
    return made


def _clipped(
    limits: np.ndarray, panel: np.ndarray, experiment: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Limits within panels and images (their indices from the first image on), and which boxes have
    something left."""
    limits = limits.copy()
    if experiment.scan is not None and experiment.goniometer is not None:
        limits[:, 4:] -= experiment.scan.get_array_range()[0]
        images = experiment.scan.get_num_images()
    else:
        limits[:, 4], limits[:, 5] = 0, 1
        images = 1
    sizes = np.array([one.get_image_size() for one in experiment.detector])
    known = (panel >= 0) & (panel < len(sizes))
    ends = sizes[np.where(known, panel, 0)]
    for axis, end in enumerate((ends[:, 0], ends[:, 1], images)):
        limits[:, 2 * axis : 2 * axis + 2] = np.clip(
            limits[:, 2 * axis : 2 * axis + 2], 0, np.broadcast_to(end, len(limits))[:, None]
        )
    edges = limits[:, 1::2] - limits[:, ::2]
    return limits, known & (edges > 0).all(axis=1)


def _resolution(experiment: Any, panel: np.ndarray, places: np.ndarray) -> np.ndarray:
    found = np.zeros(len(panel))
    for number, one in enumerate(experiment.detector):
        here = panel == number
        if here.any():
            found[here] = d_of_places(one, experiment.beam, places[here, :2])
    return found


def labels(
    boxes: Boxes, index: int, shapes: Sequence[tuple[int, int]]
) -> tuple[list[np.ndarray], int]:
    """int64 [slow, fast] a panel of image `index`, from 0: the box of each pixel, -1: none; and how
    many pixels lie in several boxes. These are of the one whose middle is nearest, in units of its
    half edges."""
    found = [np.full(shape, -1, dtype=np.int64) for shape in shapes]
    away = [np.full(shape, np.inf, dtype=np.float32) for shape in shapes]
    shared = [np.zeros(shape, dtype=bool) for shape in shapes]
    low, high = boxes.limits[:, 4], boxes.limits[:, 5]
    for number in np.flatnonzero((low <= index) & (index < high)):
        x, y, z = (_from_middle(*boxes.limits[number, at : at + 2]) for at in (0, 2, 4))
        distance = (y**2)[:, None] + x**2 + z[index - low[number]] ** 2
        x0, x1, y0, y1 = boxes.limits[number, :4]
        panel, window = boxes.panel[number], (slice(y0, y1), slice(x0, x1))
        shared[panel][window] |= found[panel][window] >= 0
        nearer = distance < away[panel][window]
        found[panel][window][nearer] = number
        away[panel][window][nearer] = distance[nearer]
    return found, int(sum(one.sum() for one in shared))


def _from_middle(first: int, last: int) -> np.ndarray:
    """Of the pixels from first to last - 1, -1 to 1 between the ends."""
    return (2 * np.arange(first, last) + 1 - first - last) / (last - first)


def reader(experiment: Any, name: str) -> Callable[[int], list[np.ndarray]]:
    """What reads image `index`, from 0, of a dxtbx experiment: photons [slow, fast] a panel, offset
    and gain taken off, NaN where masked, overloaded or not a number. `Sorry` without images."""
    if experiment.imageset is None:
        raise Sorry(f"{name} points at no images: give a list that does")
    images = compared_images.images_of(name, ExperimentList([experiment]))
    before = 0  # images of the files before the first of those that were chosen
    if experiment.scan is not None and dxtbx_versions.is_sequence(experiment.imageset):
        before = experiment.scan.get_image_range()[0] - images.first

    def read(index: int) -> list[np.ndarray]:
        index += before
        found = images.photons(images.first + index)
        values = experiment.imageset.get_raw_data(min(index, len(experiment.imageset) - 1))
        tuples = values if isinstance(values, tuple) else (values,)
        for one, raw, panel in zip(found, tuples, experiment.detector):
            low, high = panel.get_trusted_range()
            numbers = raw.as_numpy_array()
            one[(numbers >= high) | (numbers < low) | ~np.isfinite(one)] = np.nan
        return found

    return read


def seen(boxes: Boxes, table: Any, experiment: Any) -> tuple[np.ndarray, ...]:
    """Of those boxes whose spots were found: hkl [n, 3], panel [n], place [n, 2] fast and slow,
    image [n] from 0, phi [n] radians; and the width of an image, radians, 0 of a still. Not of
    those whose place is an outlier."""
    hkl = indices(boxes, table).astype(float)
    table = _rows_of(table, boxes.rows)
    found = _observed(table) & ~_rejected(table)
    panel, hkl, places = boxes.panel[found], hkl[found], _places(table)[found]
    scan = experiment.scan
    if scan is None or experiment.goniometer is None:
        start = 0.0
        if scan is not None and checks.has_oscillation(scan):
            start = scan.get_oscillation(deg=False)[0]
        return hkl, panel, places[:, :2].copy(), np.zeros(len(hkl)), np.full(len(hkl), start), 0.0
    phi = np.array([scan.get_angle_from_array_index(z, deg=False) for z in places[:, 2]])
    image = places[:, 2] - scan.get_array_range()[0]
    return hkl, panel, places[:, :2].copy(), image, phi, abs(scan.get_oscillation(deg=False)[1])
