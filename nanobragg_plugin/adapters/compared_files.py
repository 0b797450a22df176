"""What the files are that are to be compared, seen from their content."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import iotbx.mtz
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import dxtbx_versions
from nanobragg_plugin.adapters.checks import one_line
from nanobragg_plugin.adapters.load import check_lookups

#: Kind of file -> what it is called.
KINDS = {
    "experiments": "experiment list",
    "reflections": "reflection table",
    "merged": "MTZ file",
    "images": "image set",
}
#: The first bytes of HDF5 and of msgpack's array of three, as DIALS writes a table.
_TABLE = b"dials::af::reflection_table"
_JSON = re.compile(rb'\s*\{\s*"')


@dataclass(frozen=True)
class Side:
    """The files of one side, the truth or the other, by kind; None where it has none."""

    experiments: str | None = None
    reflections: str | None = None
    merged: str | None = None
    images: str | None = None

    def names(self) -> list[str]:
        """All of them."""
        return [name for name in (getattr(self, kind) for kind in KINDS) if name]


def sides(names: list[str]) -> tuple[Side, Side]:
    """Truth and other: of each kind the first file is the truth's, the second the other's.

    The only experiment list serves both; beside the only image file the first of them is the
    truth's. A reflection table beside an MTZ file is the truth if it
    is a truth table (it has f_squared), else the MTZ file is, whichever comes first.
    """
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for name in names:
        kind = kind_of(name)
        if len(found[kind]) == 2:
            raise Sorry(
                f"{name} is a third {KINDS[kind]}: give the truth's and the other's; several can "
                "be joined (dials.combine_experiments)"
            )
        found[kind].append(name)
    pairs = {kind: (files + [None, None])[:2] for kind, files in found.items()}
    lists, images = found["experiments"], found["images"]
    if len(lists) == 1 and len(images) == 1:  # whose images may be compared
        second = max(("experiments", "images"), key=lambda kind: names.index(found[kind][0]))
        pairs[second].reverse()
    for kind in ("experiments", "reflections", "merged", "images"):
        if (
            len(found[kind]) == 2
            and Path(found[kind][0]).resolve() == Path(found[kind][1]).resolve()
        ):
            raise Sorry(f"{found[kind][0]} is given twice: give the truth's and the other's")
    return tuple(Side(**{kind: pair[i] for kind, pair in pairs.items()}) for i in (0, 1))


def kind_of(name: str) -> str:
    """A key of KINDS. `Sorry` for a file that is missing, empty, or of no use here."""
    path = Path(name)
    if "#" in path.name:  # a template of images
        return "images"
    try:
        if path.is_dir():
            raise Sorry(f"{name} is a folder; name the files in it")
        with path.open("rb") as handle:
            head = handle.read(512)
    except FileNotFoundError:
        raise Sorry(f"there is no file {name}") from None
    except OSError as error:
        raise Sorry(f"{name} cannot be read: {error.strerror}") from None
    if not head.strip():
        raise Sorry(f"{name} is empty")
    if head.startswith(b"MTZ "):
        return "merged"
    if _TABLE in head[:64] or path.suffix in (".refl", ".pickle"):
        return "reflections"
    if path.suffix == ".mtz":
        raise Sorry(f"{name} is not an MTZ file: it does not begin as one")
    # the header of an SMV image begins with a brace too
    if path.suffix in (".expt", ".json") or _JSON.match(head):
        return "experiments"
    return "images"


def read_experiments(name: str, check_format: bool = False) -> Any:
    """The experiments of a list; check_format: with access to the images."""
    try:
        content = json.loads(Path(name).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("__id__") != "ExperimentList":
            raise Sorry(f"{name} is not an experiment list: JSON of another kind")
        dxtbx_versions.require_readable(content, name)
        check_lookups(content, os.path.dirname(os.path.abspath(name)))
        found = ExperimentListFactory.from_json_file(name, check_format=check_format)
    except Sorry:
        raise
    except FileNotFoundError as error:
        raise Sorry(
            f"an image file that {name} names is missing: {error.filename or _short(error)}"
        ) from None
    # whatever a file of arbitrary JSON makes dxtbx stumble over
    except Exception as error:
        raise Sorry(
            f"{name} is not an experiment list that dxtbx can read: {_short(error)}"
        ) from None
    if not len(found):
        raise Sorry(f"{name} holds no experiments")
    for number, experiment in enumerate(found):
        for model in ("beam", "detector"):
            if getattr(experiment, model) is None:
                raise Sorry(
                    f"experiment {number} of {name} has no {model}: nothing can be compared"
                )
        dxtbx_versions.require_s0(experiment.beam, f"the beam of experiment {number} of {name}")
    return found


def read_reflections(name: str) -> Any:
    """A dials reflection table that is not empty."""
    try:
        if _TABLE not in Path(name).read_bytes()[:64]:
            # DIALS would unpickle it, and so run whatever is in it
            raise Sorry(f"{name} is not a reflection table as DIALS writes it (.refl)")
        table = flex.reflection_table.from_file(name)
    except Sorry:
        raise
    except Exception as error:
        raise Sorry(
            f"{name} is not a reflection table that DIALS can read: {_short(error)}"
        ) from None
    if not len(table):
        raise Sorry(f"{name} holds no reflections")
    return table


def read_merged(name: str, labels: list[str] | None, parameter: str) -> Any:
    """The intensities, or amplitudes, of an MTZ file as a cctbx Miller array.

    Without labels the mean intensities, else the mean amplitudes, else those of Friedel mates.
    """
    try:
        arrays = iotbx.mtz.object(name).as_miller_arrays(merge_equivalents=False)
    except Exception as error:
        raise Sorry(f"{name} is not an MTZ file that cctbx can read: {_short(error)}") from None
    arrays = [a for a in arrays if a.is_complex_array() or a.is_xray_data_array()]
    if labels:
        wanted = {label for word in labels for label in word.split(",") if label}
        arrays = [a for a in arrays if wanted <= set(a.info().labels)]
    have = "; ".join(",".join(a.info().labels) for a in arrays) or "none"
    if not arrays:
        raise Sorry(
            f"{name} has no amplitudes or intensities"
            + (f" with the labels {' '.join(labels)}: see {parameter}" if labels else "")
        )
    order = [(a.anomalous_flag(), not a.is_xray_intensity_array()) for a in arrays]
    best = [a for a, key in zip(arrays, order) if key == min(order)]
    if len(best) > 1:
        raise Sorry(
            f"{name} has several arrays that may be meant, {have}: choose with {parameter}="
        )
    array = best[0]
    if array.unit_cell() is None or array.space_group() is None:
        raise Sorry(f"{name} has no unit cell or space group")
    return array


def _short(error: BaseException) -> str:
    return one_line(error)[:300]
