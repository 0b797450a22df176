"""The experiment list that a live file names: read without opening or running what it names.

dxtbx reads models from other files where a list names some, makes a scan of as many images as it
says, and loads profile and scaling models by plug-ins. None of it is done here.
"""

from __future__ import annotations

import json
import os
from typing import Any

from dxtbx.model import ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import checks
from nanobragg_plugin.adapters.live_paths import Trusted
from nanobragg_plugin.adapters.load import LOOKUPS

#: Bytes of an experiment list, images of a scan, and pixels of a detector.
MAX_BYTES, MAX_IMAGES, MAX_PIXELS = 1 << 26, 1_000_000, 4 * 10**8
#: What a list may have of each experiment, by number.
REFERENCES = ("beam", "detector", "goniometer", "scan", "crystal", "imageset")
#: What of an image set tells whether two are the same; its images are not opened.
IDENTITY = ("__id__", "template", "images", "single_file_indices", "grid_size")


def read(path: str, trusted: Trusted) -> tuple[ExperimentList, list[str]]:
    """The list, and the files of masks, gains and pedestals that it names; `Sorry` for what is no
    experiment list or asks for too much."""
    name = f"{trusted.live}: input.experiments={os.path.basename(path)}"
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise Sorry(f"{name} has more than {MAX_BYTES} bytes: name a shorter list")
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
        return _of_json(content, path, trusted, name)
    except Sorry:
        raise
    # whatever a file of arbitrary JSON makes dxtbx stumble over
    except Exception as error:
        reason = checks.one_line(error)[:300]
        raise Sorry(f"{name} is not an experiment list that dxtbx can read: {reason}") from None


def _of_json(content: Any, path: str, trusted: Trusted, name: str) -> tuple[ExperimentList, list]:
    if not isinstance(content, dict) or content.get("__id__") != "ExperimentList":
        raise Sorry(f"{name} is not an experiment list: its __id__ is not ExperimentList")
    experiments = []
    for number, entry in enumerate(content["experiment"]):
        kept = {"__id__": "Experiment", "identifier": str(entry.get("identifier", ""))}
        for key in REFERENCES:
            value = entry.get(key)
            if value is not None and (type(value) is not int or value < 0):
                raise Sorry(
                    f"{name}: the {key} of experiment {number} is {str(value)[:60]!r}: a live "
                    "file's list must hold its models, not name files of them"
                )
            kept[key] = value
        experiments.append({key: value for key, value in kept.items() if value is not None})
    if not experiments:
        raise Sorry(f"{name} holds no experiments")
    files: list[str] = []
    imagesets = [_imageset(one, path, trusted, files) for one in content.get("imageset", [])]
    models = {key: content.get(key, []) for key in REFERENCES if key != "imageset"}
    for scan in models["scan"]:
        first, last = scan["image_range"]
        _limit(last - first + 1, MAX_IMAGES, "images", name)
    for detector in models["detector"]:
        sizes = [panel["image_size"] for panel in detector["panels"]]
        _limit(sum(fast * slow for fast, slow in sizes), MAX_PIXELS, "pixels", name)
    _without_scan(experiments, imagesets)
    clean = {"__id__": "ExperimentList", "experiment": experiments, "imageset": imagesets, **models}
    folder = os.path.dirname(path)
    return ExperimentListFactory.from_dict(clean, check_format=False, directory=folder), files


def _imageset(entry: dict, path: str, trusted: Trusted, files: list[str]) -> dict:
    """What is kept of an image set; the files that it names are added to `files`."""
    kept = {key: entry[key] for key in IDENTITY if key in entry}
    for key in LOOKUPS:
        if entry.get(key):
            what = f"the {key} of input.experiments"
            kept[key] = trusted.path(entry[key], what, os.path.dirname(path))
            files.append(kept[key])
    return kept


def _without_scan(experiments: list[dict], imagesets: list[dict]) -> None:
    """Drop image sequences of experiments that have no scan: dxtbx would look for their files."""
    for entry in experiments:
        number = entry.get("imageset")
        if number is not None and "scan" not in entry and "template" in imagesets[number]:
            del entry["imageset"]


def _limit(value: int, most: int, what: str, name: str) -> None:
    if not value <= most:
        raise Sorry(f"{name} has {value:.3g} {what}, more than the {most:.0e} of a live file")
