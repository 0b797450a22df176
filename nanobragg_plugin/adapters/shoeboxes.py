"""Shoeboxes of a DIALS reflection table: their pixels, and what was counted in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dxtbx.model import ExperimentList
from libtbx.utils import Sorry
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from nanobragg_plugin.adapters import checks, compared_images
from nanobragg_plugin.adapters.compared_tables import d_of_places

#: Half the edge of the box of a reflection that has none, pixels and images.
HALF_PX, HALF_IMAGES = 4, 1.0


@dataclass(frozen=True)
class Boxes:
    """rows [n]: of the reflections in their table; panel [n]; limits [n, 6]: first and last + 1
    fast, slow, image (from 0); group [n]: boxes that have pixels in common are of one group, from
    0; notes: lines for the log."""

    rows: np.ndarray
    panel: np.ndarray
    limits: np.ndarray
    group: np.ndarray
    notes: tuple[str, ...]

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return int(self.group.max()) + 1 if len(self.group) else 0


def boxes_of(params: Any, table: Any, number: int, experiment: Any) -> Boxes:
    """The boxes of the reflections of experiment `number` of a list that are indexed; params: the
    PHIL scope refine.shoeboxes, extracted; experiment: dxtbx's, of the images wanted."""
    hkl = np.array(table["miller_index"]).reshape(-1, 3) if "miller_index" in table else None
    if hkl is None or not hkl.any():
        raise Sorry("the reflections are not indexed: give those of dials.index or dials.refine")
    for name in ("id", "panel"):
        if name not in table:
            raise Sorry(f"the reflections have no column {name!r}: give those of dials.index")
    mine = (np.array(table["id"]) == _id_of(table, number, experiment)) & hkl.any(axis=1)
    notes = [f"Reflections: {len(table)}, of this experiment and indexed {int(mine.sum())}"]
    places = _places(table)
    still = experiment.scan is None or experiment.goniometer is None
    limits = _limits(table, places, still)
    wrong = _rejected(table)
    kept = np.zeros(len(table), bool) if still else _cut_off(table, mine, limits, experiment.scan)
    if (mine & wrong & ~kept).any():
        count = int((mine & wrong & ~kept).sum())
        notes.append(f"Left out, as DIALS has marked them for it: {count}")
    if kept.any():
        notes.append(f"Outliers only as the scan's ends cut them off, which are used: {kept.sum()}")
    mine &= ~wrong | kept
    panel = np.array(table["panel"], dtype=int)
    if params.d_min is not None:
        d = _resolution(experiment, panel, places)
        mine &= d >= params.d_min
    border = [params.border_px, params.border_px, params.border_images]
    for axis in range(3):
        limits[:, 2 * axis] -= border[axis]
        limits[:, 2 * axis + 1] += border[axis]
    limits, inside = _clipped(limits, panel, experiment)
    rows = np.flatnonzero(mine & inside)
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
    group = _groups(panel[rows], limits[rows])
    notes.append(
        f"Shoeboxes: {len(rows)}, in {group.max() + 1} groups that share no pixel; the largest "
        f"group has {np.bincount(group).max()}"
    )
    return Boxes(rows, panel[rows], limits[rows], group, tuple(notes))


def _id_of(table: Any, number: int, experiment: Any) -> int:
    """What the table calls experiment `number` of the list: by its identifier, if both have it."""
    ids = dict(table.experiment_identifiers())
    named = [one for one, name in ids.items() if name and name == experiment.identifier]
    return named[0] if named else number


def _rejected(table: Any) -> np.ndarray:
    """[n]: which reflections DIALS found to be overloaded, or indexed wrongly."""
    if "flags" not in table:
        return np.zeros(len(table), bool)
    kinds = ("centroid_outlier", "overloaded")
    found = [table.get_flags(getattr(table.flags, kind)).as_numpy_array() for kind in kinds]
    return np.any(found, axis=0)


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


def _groups(panel: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """[n]: connected components of boxes that overlap."""
    n, block = len(panel), 512
    pairs = []
    for first in range(0, n, block):
        some = slice(first, first + block)
        both = panel[some, None] == panel[None, :]
        for axis in range(0, 6, 2):
            both &= limits[some, None, axis] < limits[None, :, axis + 1]
            both &= limits[None, :, axis] < limits[some, None, axis + 1]
        a, b = np.nonzero(both)
        pairs.append((a + first, b))
    a, b = (np.concatenate(side) for side in zip(*pairs))
    return connected_components(coo_matrix((np.ones(len(a), bool), (a, b)), (n, n)), False)[1]


def labels(boxes: Boxes, index: int, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """int64 [slow, fast] a panel of image `index`, from 0: the group of each pixel, -1: none."""
    found = [np.full(shape, -1, dtype=np.int64) for shape in shapes]
    low, high = boxes.limits[:, 4], boxes.limits[:, 5]
    for number in np.flatnonzero((low <= index) & (index < high)):
        x0, x1, y0, y1 = boxes.limits[number, :4]
        found[boxes.panel[number]][y0:y1, x0:x1] = boxes.group[number]
    return found


def reader(experiment: Any, name: str) -> Callable[[int], list[np.ndarray]]:
    """What reads image `index`, from 0, of a dxtbx experiment: photons [slow, fast] a panel, offset
    and gain taken off, NaN where masked, overloaded or not a number. `Sorry` without images."""
    if experiment.imageset is None:
        raise Sorry(f"{name} points at no images: give a list that does")
    images = compared_images.images_of(name, ExperimentList([experiment]))

    def read(index: int) -> list[np.ndarray]:
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
    found = (_observed(table) & ~_rejected(table))[boxes.rows]
    rows, panel = boxes.rows[found], boxes.panel[found]
    hkl = np.array(table["miller_index"]).reshape(-1, 3)[rows].astype(float)
    places = _places(table)[rows]
    scan = experiment.scan
    if scan is None or experiment.goniometer is None:
        start = 0.0
        if scan is not None and checks.has_oscillation(scan):
            start = scan.get_oscillation(deg=False)[0]
        return hkl, panel, places[:, :2].copy(), np.zeros(len(hkl)), np.full(len(hkl), start), 0.0
    phi = np.array([scan.get_angle_from_array_index(z, deg=False) for z in places[:, 2]])
    image = places[:, 2] - scan.get_array_range()[0]
    return hkl, panel, places[:, :2].copy(), image, phi, abs(scan.get_oscillation(deg=False)[1])
