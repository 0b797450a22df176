"""Images to look at: which there are, and their pixels."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dxtbx.model.experiment_list import ExperimentList, ExperimentListFactory
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import checks
from nanobragg_plugin.adapters.load import check_unpickled
from nanobragg_plugin.adapters.strangers import refuse_pickles
from nanobragg_plugin.run import expt_guard
from nanobragg_plugin.run.pixels import Image


@dataclass(frozen=True)
class Series:
    """Images with consecutive numbers from `first` on, each (image set, index in it); experiments:
    dxtbx's of these image sets, with their places in the list; sets: the places of the image sets;
    alone: whether the list holds no others."""

    first: int
    images: tuple[tuple[Any, int], ...]
    experiments: tuple[tuple[int, Any], ...]
    sets: tuple[int, ...]
    alone: bool

    @classmethod
    def of(cls, experiments: ExperimentList, chosen: int | None) -> Series:
        """The image set of a number, or the first; where that is a still all stills, in order."""
        sets = experiments.imagesets()
        if not sets:
            raise Sorry("the experiment list names no images: give the files of the images")
        if chosen is not None and chosen >= len(sets):
            raise Sorry(f"imageset={chosen}: there are {len(sets)}, counted from 0")
        numbers = [0 if chosen is None else chosen]
        if chosen is None and _scan(sets[0]) is None:
            numbers = [i for i, one in enumerate(sets) if _scan(one) is None]
        scan = _scan(sets[numbers[0]])
        images = tuple((sets[n], i) for n in numbers for i in range(len(sets[n])))
        mine = tuple(
            (place, one)
            for place, one in enumerate(experiments)
            if any(one.imageset == sets[n] for n in numbers)
        )
        first = 1 if scan is None else scan.get_image_range()[0]
        return cls(first, images, mine, tuple(numbers), len(numbers) == len(sets))

    @property
    def last(self) -> int:
        return self.first + len(self.images) - 1

    def check(self, number: int, count: int, name: str) -> None:
        """`Sorry` unless there are `count` images from this number on; name: of the parameter."""
        if not (self.first <= number and number + count - 1 <= self.last):
            what = f"the images are {self.first} to {self.last}"
            if self.first == self.last:
                what = f"there is one image, {self.first}"
            added = f" with sum_images={count}" if count > 1 else ""
            raise Sorry(f"{name}={number}{added}: {what}")

    def models(self, number: int) -> tuple[Any, Any]:
        """Detector and beam of an image."""
        imageset, index = self.images[number - self.first]
        return imageset.get_detector(index), imageset.get_beam(index)

    def image(self, number: int, count: int = 1) -> Image:
        """The sum of `count` images from this number on; one of them is in memory at a time."""
        values, bad, over = None, None, None
        for one in range(number, number + count):
            new = read(*self.images[one - self.first])
            if values is None:
                values, bad, over = new
                continue
            for total, more in zip(values, new[0]):
                total += more
            for so_far, more in zip((*bad, *over), (*new[1], *new[2])):
                so_far |= more
        return Image(values, bad, over, self.title(number, count))

    def title(self, number: int, count: int = 1) -> str:
        """Which images these are, and their range of rotation."""
        imageset, index = self.images[number - self.first]
        name = Path(imageset.get_path(index)).name
        which = f"image {number}" if count == 1 else f"images {number} to {number + count - 1}"
        if len(self.images) == 1:
            which = "still" if _scan(imageset) is None else which
        scan = _scan(imageset)
        if scan is None or scan.get_oscillation()[1] == 0:
            return f"{name}, {which}"
        start, width = scan.get_image_oscillation(number)
        return f"{name}, {which}, {start:g}° to {start + count * width:g}°"


def _scan(imageset: Any) -> Any:
    """The scan of an image sequence that turns, or None."""
    return imageset.get_scan() if hasattr(imageset, "get_array_range") else None


def read(imageset: Any, index: int) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Values float32 [slow, fast], and bool of what is masked or untrusted, of what is above the
    trusted range, of each panel; `Sorry` for an image that cannot be read."""
    try:
        raw, mask = imageset.get_raw_data(index), imageset.get_mask(index)
    # whatever a damaged file makes its format class stumble over
    except Exception as error:
        name = imageset.get_path(index)
        raise Sorry(f"an image of {name} cannot be read: {checks.one_line(error)[:300]}") from error
    values, bad, over = [], [], []
    for panel, data, good in zip(imageset.get_detector(index), raw, mask):
        data, good = data.as_numpy_array(), good.as_numpy_array()
        high = panel.get_trusted_range()[1]
        above = (data >= high) & ~good  # an older dxtbx trusts what is below, a newer up to it
        values.append(data.astype(np.float32))
        over.append(above)
        bad.append(~good & ~above)
    return values, bad, over


def load(names: list[str]) -> ExperimentList:
    """The experiments of experiment lists and image files (or templates with #), in order, with
    their images; `Sorry` for what cannot be read."""
    result = ExperimentList()
    for name in (one for one in names if one.endswith((".expt", ".json"))):
        with _read(name, "an experiment list whose images can be read"):
            expt_guard.check_file(name)
            check_unpickled(ExperimentListFactory.from_json_file(name, check_format=False))
            result.extend(ExperimentListFactory.from_json_file(name, check_format=True))
    images = [name for name in names if not name.endswith((".expt", ".json"))]
    templates = [name for name in images if "#" in name]
    files = [name for name in images if "#" not in name]
    refuse_pickles(files)
    for name in templates:
        with _read(name, "a template of images"):
            found = glob.glob(re.sub("#+", "*", glob.escape(name)))
            refuse_pickles(sorted(found))
            result.extend(ExperimentListFactory.from_templates([name]))
    if files:
        unknown: list[str] = []
        with _read(files[0], "an image"):
            result.extend(ExperimentListFactory.from_filenames(files, unhandled=unknown))
        if unknown:
            raise Sorry(f"{unknown[0]} is not an image that dxtbx can read")
    if not len(result):
        raise Sorry("which images? give image files, or an experiment list that names them")
    return result


class _read:
    """What dxtbx says of a file, as `Sorry`."""

    def __init__(self, name: str, what: str) -> None:
        self.name, self.what = name, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, Sorry):
            reason = checks.one_line(error)[:300]
            raise Sorry(f"{self.name} is not {self.what}: {reason}") from error
