"""Spots of an image: those of reflection files, and those that DIALS predicts."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from dials.array_family import flex
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import checks, load
from nanobragg_plugin.adapters.strangers import require_file
from nanobragg_plugin.run.marks import Spots
from nanobragg_plugin.run.view_images import Series

#: Columns of DIALS' tables: fast and slow, pixels, and z, images from the scan's 0 on.
COLUMNS = {"found": "xyzobs.px.value", "predicted": "xyzcal.px"}


#: How a reflection table of DIALS begins: an array of three, a string of 27 characters.
MSGPACK = b"\x93\xbbdials::af::reflection_table"


def read_table(name: str) -> Any:
    """The reflection table of a file, which DIALS would unpickle if it were not msgpack."""
    require_file(name)
    try:
        with open(name, "rb") as stream:
            if stream.read(len(MSGPACK)) != MSGPACK:
                raise Sorry(
                    f"{name} is not a reflection table as DIALS has written it since 2019 (msgpack)"
                )
        table = flex.reflection_table.from_file(name)
    except Sorry:
        raise
    # whatever a file that is none makes its reader stumble over
    except Exception as error:
        raise Sorry(
            f"{name} is not a reflection table of DIALS: {checks.one_line(error)[:300]}"
        ) from error
    known = [column for column in COLUMNS.values() if column in table]
    if "panel" not in table or not known:
        raise Sorry(f"{name} holds no positions of spots (xyzobs.px.value or xyzcal.px, panel)")
    return table


def of_table(
    table: Any, series: Series, number: int, count: int, show: str, margin: float
) -> list[Spots]:
    """Spots that a table has on `count` images from this number on.

    show: found, predicted, both, or auto, those there are. A spot is on the images that its bbox
    (else its centroid, up to a margin of so many images) says.
    """
    result = []
    mine = _of_series(table, series, number)
    for kind, column in COLUMNS.items():
        if show not in ("auto", "both", kind) or column not in table:
            continue
        pixels = np.array(table[column]).reshape(-1, 3)
        known = mine & np.isfinite(pixels).all(1) & pixels.any(1)
        known &= _on_images(table, pixels[:, 2], series, number, count, margin)
        which = flex.bool(known.tolist())
        result.append(_spots(kind, table.select(which), column))
    return result


def _spots(kind: str, table: Any, column: str) -> Spots:
    hkl = np.zeros((len(table), 3), int)
    if "miller_index" in table:
        hkl = np.array(table["miller_index"]).reshape(-1, 3)
    pixels = np.array(table[column]).reshape(-1, 3)[:, :2]
    return Spots(kind, np.array(table["panel"]).astype(int), pixels, hkl)


def _of_series(table: Any, series: Series, number: int) -> np.ndarray:
    """bool [n]: which spots are of the image set that is shown: by its experiments, or where a
    spot has none by the number of its image set. Of stills: of the image's own."""
    if series.alone and len(series.sets) == 1:
        return np.ones(len(table), bool)
    imageset = series.images[number - series.first][0]
    ids = np.array(table["id"]) if "id" in table else np.full(len(table), -1)
    places = [place for place, one in series.experiments if one.imageset == imageset]
    mine = np.isin(ids, places)
    if "imageset_id" in table:
        sets = [one for one, _ in series.images]
        starts = [i for i, one in enumerate(sets) if i == 0 or one != sets[i - 1]]
        own = series.sets[sum(i <= number - series.first for i in starts) - 1]
        mine |= (ids < 0) & (np.array(table["imageset_id"]) == own)
    return mine


def _on_images(
    table: Any, z: np.ndarray, series: Series, number: int, count: int, margin: float
) -> np.ndarray:
    """bool [n]: which spots are on the images, by their bbox or their centroid z."""
    imageset, index = series.images[number - series.first]
    low = number - 1
    if not hasattr(imageset, "get_array_range"):
        if len(imageset) == 1:  # a still of its own
            return np.ones(len(z), bool)
        low = index
    on = (low - margin <= z) & (z < low + count + margin)
    if "bbox" in table:
        z0, z1 = np.array(table["bbox"].parts()[4:])
        boxed = z1 > z0
        on = np.where(boxed, (z0 < low + count) & (z1 > low), on)
    return on


def predicted(series: Series, number: int, count: int, margin: float) -> Spots:
    """Where DIALS predicts spots of `count` images from this number on, to the resolution of the
    detector's corner; of a rotation those that pass the Ewald sphere within the images, or
    within a margin of so many images."""
    imageset = series.images[number - series.first][0]
    theirs = [copy.copy(one) for _, one in series.experiments if one.imageset == imageset]
    for one in theirs:
        one.crystal = one.crystal or _crystal_of(imageset)
    crystals = [one for one in theirs if one.crystal is not None]
    if not crystals:
        raise Sorry("spots.predict=True: there is no crystal; give an experiment list with one")
    tables = flex.reflection_table()
    for experiment in crystals:
        padding = 0.0
        if experiment.scan is not None and experiment.goniometer is not None:
            first, last = experiment.scan.get_image_range()
            wide = int(np.ceil(margin))
            ends = max(first, number - wide), min(last, number + count - 1 + wide)
            experiment = load.select_images(experiment, ends)
            experiment.profile = None
            padding = margin * experiment.scan.get_oscillation()[1]  # beyond the scan's ends
        tables.extend(flex.reflection_table.from_predictions(experiment, padding=padding))
    found = _spots("predicted", tables, "xyzcal.px")
    if not hasattr(imageset, "get_array_range"):
        return found
    z = np.array(tables["xyzcal.px"]).reshape(-1, 3)[:, 2]
    return found.only((number - 1 - margin <= z) & (z < number - 1 + count + margin))


def _crystal_of(imageset: Any) -> Any:
    """The crystal that a file of simulated images holds, or None."""
    kind = imageset.get_format_class()
    if not hasattr(kind, "get_crystal"):
        return None
    return kind.get_instance(imageset.get_path(0)).get_crystal()
