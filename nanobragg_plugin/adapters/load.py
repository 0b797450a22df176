"""Experiment lists in, what becomes of them out."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from dials.util.slice import slice_experiments
from dxtbx.model import Experiment, ExperimentList
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import checks


def sweeps(experiments: ExperimentList) -> list[Experiment]:
    """The experiments, each a sweep or still of its own; `Sorry` where several crystals share
    one image set."""
    seen: dict[tuple, int] = {}
    for number, experiment in enumerate(experiments):
        if experiment.imageset is not None:
            key: tuple = ("imageset", id(experiment.imageset))
            key += () if experiment.scan is None else experiment.scan.get_image_range()
        elif experiment.scan is not None:
            key = ("models", *map(id, (experiment.scan, experiment.detector, experiment.beam)))
        else:
            key = ("still", number)
        if key in seen:
            raise Sorry(
                f"experiments {seen[key]} and {number} of the list are crystals of the same "
                "images: only one crystal in an image can be simulated; choose one, for example "
                "with dials.split_experiments"
            )
        seen[key] = number
    return [copy.copy(experiment) for experiment in experiments]


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
    offset = experiment.scan.get_batch_offset()
    sliced = slice_experiments(ExperimentList([single]), [(first, last)])[0]
    sliced.scan.set_batch_offset(offset)
    beginning, end = first - low, last - low + 2
    beam, goniometer = sliced.beam, sliced.goniometer
    if checks.scan_points(beam):
        points = [beam.get_s0_at_scan_point(i) for i in range(beginning, end)]
        beam.reset_scan_points()
        beam.set_s0_at_scan_points(points)
    if goniometer is not None and checks.scan_points(goniometer):
        settings = [goniometer.get_setting_rotation_at_scan_point(i) for i in range(beginning, end)]
        goniometer.reset_scan_points()
        goniometer.set_setting_rotation_at_scan_points(settings)
    sliced.imageset = experiment.imageset
    return sliced


def static_mask(experiment: Experiment) -> list[np.ndarray] | None:
    """The mask that an experiment list names for its image set: bool [slow, fast] a panel,
    True where good."""
    if experiment.imageset is None:
        return None
    lookup = experiment.imageset.external_lookup.mask
    if not lookup.data.empty():
        return [tile.data().as_numpy_array() for tile in lookup.data]
    if not lookup.filename:
        return None
    try:
        data = Path(lookup.filename).read_bytes()
        masks = _MaskUnpickler(io.BytesIO(data)).load()
        masks = (masks,) if hasattr(masks, "as_numpy_array") else tuple(masks)
        return [mask.as_numpy_array().astype(bool) for mask in masks]
    except OSError as error:
        raise Sorry(
            f"the mask {lookup.filename} that the experiment list names cannot be read: "
            f"{error.strerror}"
        ) from error
    except (pickle.UnpicklingError, AttributeError, EOFError, TypeError, ValueError) as error:
        raise Sorry(f"{lookup.filename} is not a mask as DIALS writes it ({error})") from error


class _MaskUnpickler(pickle.Unpickler):
    """Reads DIALS's masks, tuples of flex.bool, and nothing else that a pickle can hold."""

    def find_class(self, module: str, name: str) -> Any:
        if name in ("bool", "grid") and module.endswith("array_family_flex_ext"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")
