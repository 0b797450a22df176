"""Experiment lists in, what becomes of them out."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from dials.util.slice import slice_experiments
from dxtbx.model import Experiment, ExperimentList
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import checks, flex_pickle
from nanobragg_plugin.adapters.strangers import refuse_pickles, require_file

logger = logging.getLogger("dials.nanobragg_plugin.adapters.load")

MODELS = ("beam", "detector", "goniometer", "scan", "crystal")
#: What an image set names files for that a simulated image set takes over.
LOOKUPS = ("mask", "gain", "pedestal")


def sweeps(experiments: ExperimentList) -> list[Experiment]:
    """The experiments, with models of their own that are shared as they were."""
    copies: dict[int, tuple[Any, Any]] = {}

    def copied(model: Any) -> Any:
        # the original is kept beside its copy, so that its id stays its own
        return copies.setdefault(id(model), (model, copy.deepcopy(model)))[1]

    result = []
    for number, experiment in enumerate(experiments):
        single = copy.copy(experiment)
        for name in MODELS:
            model = getattr(experiment, name)
            key = None if model is None else _nan_of(model.to_dict())
            if key is not None:
                raise Sorry(
                    f"the {name} of experiment {number} has a NaN in {key}; mend the "
                    "experiment file"
                )
            try:
                setattr(single, name, copied(model))
            except RuntimeError as error:  # dxtbx refuses numbers of its own
                raise Sorry(
                    f"the {name} of experiment {number} is none ({checks.one_line(error)}); mend "
                    "the experiment file"
                ) from None
        result.append(single)
    return result


def _nan_of(values: Any, key: str = "it") -> str | None:
    """The name of the first entry of a model's dictionary that is not a number, or None."""
    if isinstance(values, float):
        return key if math.isnan(values) else None
    if isinstance(values, dict):
        found = (_nan_of(value, name) for name, value in values.items())
    elif isinstance(values, (list, tuple)):
        found = (_nan_of(value, key) for value in values)
    else:
        return None
    return next((name for name in found if name is not None), None)


def select_images(experiment: Experiment, image_range: Sequence[int] | None) -> Experiment:
    """The experiment with these images alone (numbers as in the scan, inclusive)."""
    if image_range is None:
        return experiment
    first, last = image_range
    if experiment.scan is None:
        raise Sorry(f"sampling.image_range={first},{last}: the experiment is a still, without scan")
    checks.check_experiment(experiment)
    low, high = experiment.scan.get_image_range()
    if not low <= first <= last <= high:
        raise Sorry(
            f"sampling.image_range={first},{last} is not within the scan, whose images are "
            f"{low} to {high}"
        )
    single = copy.copy(experiment)
    single.imageset = None  # its images need not exist
    sliced = slice_experiments(ExperimentList([single]), [(first, last)])[0]
    sliced.scan.set_batch_offset(experiment.scan.get_batch_offset())
    points = slice(first - low, last - low + 2)
    beam, goniometer = experiment.beam, experiment.goniometer
    # what does not vary stays the model that other sweeps may share
    sliced.detector = experiment.detector
    if not checks.scan_points(experiment.crystal):
        sliced.crystal = experiment.crystal
    sliced.beam = beam
    if checks.scan_points(beam):
        sliced.beam = copy.deepcopy(beam)
        sliced.beam.reset_scan_points()
        sliced.beam.set_s0_at_scan_points(list(beam.get_s0_at_scan_points())[points])
    sliced.goniometer = goniometer
    if goniometer is not None and checks.scan_points(goniometer):
        sliced.goniometer = copy.deepcopy(goniometer)
        sliced.goniometer.reset_scan_points()
        settings = list(goniometer.get_setting_rotation_at_scan_points())[points]
        sliced.goniometer.set_setting_rotation_at_scan_points(settings)
    sliced.imageset = experiment.imageset
    return sliced


def images_before(experiment: Experiment, chosen: Experiment) -> int:
    """Images of an experiment's scan before those that were chosen of it; 0 of a still."""
    if experiment.scan is None:
        return 0
    return chosen.scan.get_image_range()[0] - experiment.scan.get_image_range()[0]


@dataclass(frozen=True)
class Lookup:
    """What an experiment list names files for, an array [slow, fast] a panel, or None: mask bool,
    True where good; gain and pedestal, which DIALS takes in place of the panels' own."""

    mask: list[np.ndarray] | None = None
    gain: list[np.ndarray] | None = None
    pedestal: list[np.ndarray] | None = None


def lookup(experiment: Experiment, gain_file: str | None = None) -> Lookup:
    """The mask, gain and pedestal that an experiment list names for its image set; gain_file: a
    gain that it does not name."""
    shapes = [tuple(reversed(panel.get_image_size())) for panel in experiment.detector]
    found = Lookup() if experiment.imageset is None else _named(experiment, shapes)
    if gain_file is None:
        return found
    if found.gain is not None:
        raise Sorry(
            f"detector.gain_file={gain_file}: the experiment list names a gain for its images "
            "already; leave one of them away"
        )
    arrays = _unpickled(gain_file, "gain", "give detector.gain_file another")
    _check(arrays, "gain", gain_file, shapes, "give detector.gain_file")
    return replace(found, gain=arrays)


def _named(experiment: Experiment, shapes: list[tuple[int, int]]) -> Lookup:
    """What `lookup` finds for an image set."""
    theirs = experiment.imageset.external_lookup
    for name in ("dx", "dy"):
        if getattr(theirs, name).filename:
            logger.warning(
                "The pixel offsets %s are not simulated, nor named in the output",
                getattr(theirs, name).filename,
            )
    return Lookup(**{name: _array_of(theirs, name, shapes) for name in LOOKUPS})


def lookup_files(experiment: Experiment) -> list[str]:
    """The files that `lookup` reads."""
    if experiment.imageset is None:
        return []
    theirs = experiment.imageset.external_lookup
    names = [getattr(theirs, name).filename for name in LOOKUPS]
    return [name for name in names if name]


def check_unpickled(experiments: ExperimentList) -> None:
    """`Sorry` for a list that dxtbx, asked for its images too, would load more than arrays for.

    experiments: read without their images; then dxtbx has unpickled nothing yet.
    """
    for imageset in experiments.imagesets():
        theirs = imageset.external_lookup
        for name in (*LOOKUPS, "dx", "dy"):
            if getattr(theirs, name).filename:
                _unpickled(getattr(theirs, name).filename, name, "give the list another, or none")
        refuse_pickles(imageset.paths())


def _array_of(theirs: Any, what: str, shapes: list[tuple[int, int]]) -> list[np.ndarray] | None:
    """Arrays [slow, fast] of a mask, gain or pedestal; `Sorry` where they do not fit."""
    entry = getattr(theirs, what)
    if not entry.data.empty():
        arrays = [tile.data().as_numpy_array() for tile in entry.data]
    elif entry.filename:
        arrays = _unpickled(entry.filename, what, "give the experiment list another, or none")
    else:
        return None
    _check(arrays, what, entry.filename, shapes, "give the experiment list")
    return arrays


def _check(
    arrays: list[np.ndarray], what: str, name: str, shapes: list[tuple[int, int]], mend: str
) -> None:
    """`Sorry` unless arrays of the file `name` have these shapes and can be what they should."""
    if [array.shape for array in arrays] != shapes:
        raise Sorry(
            f"the {what} {name} has {_sizes([array.shape for array in arrays])} pixels (slow x "
            f"fast of each panel), the detector {_sizes(shapes)}: {mend} a {what} made for this "
            "detector"
        )
    for array in arrays if what != "mask" else ():
        if not np.isfinite(array).all() or (what == "gain" and array.min() <= 0):
            raise Sorry(f"the {what} {name} holds values that are no {what}; mend it")


def _sizes(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes[:4]) + ", ..." * (
        len(shapes) > 4
    )


def _unpickled(name: str, what: str, mend: str) -> list[np.ndarray]:
    """The arrays of a file as DIALS writes them, one a panel."""
    require_file(name, f"the {what}")
    try:
        data = Path(name).read_bytes()
    except OSError as error:
        raise Sorry(f"the {what} {name} cannot be read: {error.strerror}; {mend}") from error
    try:
        return flex_pickle.read(data, "bool" if what == "mask" else "double")
    except ValueError as error:
        reason = checks.one_line(error)
        raise Sorry(f"{name} is not a {what} as DIALS writes it ({reason}); {mend}") from error
