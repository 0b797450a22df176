"""Images of any kind that dxtbx reads, in photons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import dxtbx_versions
from nanobragg_plugin.adapters.checks import one_line
from nanobragg_plugin.adapters.compared_tables import d_of_places
from nanobragg_plugin.adapters.flex_arrays import arrays

#: Rows of a panel that are computed at a time.
ROWS = 256


@dataclass(frozen=True)
class Images:
    """Images of one detector. frames: of each its image set and its index there; first: the number
    of the first one, as its scan has it; shapes: (slow, fast) a panel; counts: whether pixels are
    whole numbers; gains: of each panel, value a photon; expected: whether what is read are not the
    pixels but the photons that their file says were expected."""

    name: str
    frames: tuple[tuple[Any, int], ...]
    first: int
    shapes: tuple[tuple[int, int], ...]
    counts: bool
    gains: tuple[float, ...]
    expected: bool = False

    @property
    def last(self) -> int:
        """The number of the last image."""
        return self.first + len(self.frames) - 1

    def photons(self, number: int) -> list[np.ndarray]:
        """[slow, fast] a panel of image `number`: offset and gain taken off; NaN where masked."""
        images, index = self.frames[number - self.first]
        try:
            values = _stored(images, index) if self.expected else None
            values = arrays(images.get_corrected_data(index) if values is None else values)
            masks = arrays(images.get_mask(index))
        # whatever a truncated file makes a format class raise
        except Exception as error:
            raise Sorry(
                f"image {number} of {self.name} cannot be read: {one_line(error)[:300]}"
            ) from None
        found = []
        for one, mask in zip(values, masks):
            one = np.array(one, dtype=float)
            one[~mask] = np.nan
            found.append(one)
        if tuple(one.shape for one in found) != self.shapes:
            raise Sorry(f"image {number} of {self.name} has not the shape of its detector")
        return found

    def resolution(self, number: int) -> list[np.ndarray]:
        """d [slow, fast] of each pixel's centre, Angstrom, a panel."""
        images, index = self.frames[number - self.first]
        detector, beam = images.get_detector(index), images.get_beam(index)
        found = []
        for panel, (n_slow, n_fast) in zip(detector, self.shapes):
            d = np.empty((n_slow, n_fast))
            for rows in blocks(n_slow):
                slow, fast = np.mgrid[rows, :n_fast] + 0.5
                d[rows] = d_of_places(panel, beam, np.stack((fast, slow), axis=-1))
            found.append(d)
        return found


def blocks(n_slow: int) -> Iterator[slice]:
    """Rows of a panel, some at a time: what is made of a pixel takes more memory than the pixel."""
    return (slice(first, min(first + ROWS, n_slow)) for first in range(0, n_slow, ROWS))


def expected_of(images: Images) -> Images:
    """The photons that the file of `images` says were expected in them; `Sorry` if it does not."""
    if _stored(*images.frames[0]) is None:
        raise Sorry(
            f"{images.name} holds no photons expected (nanobragg.simulate output.expected=True "
            "writes them): give the images that it is to be compared with"
        )
    return replace(images, counts=False, expected=True)


def _stored(images: Any, index: int) -> Any:
    """The photons expected of an image, as its format class has them, or None."""
    reader = images.get_format_class().get_instance(images.paths()[index])
    read = getattr(reader, "get_expected", None)
    return None if read is None else read(images.indices()[index])


def open_images(name: str) -> Images:
    """A file of images, or a template with # for the digits of their numbers."""
    try:
        make = ExperimentListFactory.from_templates if "#" in name else _from_file
        found = make([name])
        sets = found.imagesets()
    # whatever the many format classes make of a file that is not theirs
    except Exception as error:
        raise Sorry(
            f"{name} is not an image that dxtbx can read: {one_line(error)[:300]}"
        ) from None
    if not sets:
        raise Sorry(f"{name} is not an image that dxtbx can read")
    return _images(name, sets)


def images_of(name: str, experiments: Any) -> Images:
    """The images that an experiment list points at, with its models."""
    sets = [images for images in experiments.imagesets() if images is not None]
    if not sets:
        raise Sorry(f"{name} points at no images")
    return _images(name, sets)


def _from_file(names: list[str]) -> Any:
    return ExperimentListFactory.from_filenames(names)


def _images(name: str, sets: list[Any]) -> Images:
    """All image sets of a file or a list, in a row; the numbers of several are from 1."""
    try:
        raw, detector = sets[0].get_raw_data(0), sets[0].get_detector(0)
        numbered = len(sets) == 1 and dxtbx_versions.is_sequence(sets[0])
        scan = sets[0].get_scan() if numbered else None
    # whatever a truncated file, or none, makes a format class raise
    except Exception as error:
        raise Sorry(f"the first image of {name} cannot be read: {one_line(error)[:300]}") from None
    return Images(
        name,
        tuple((images, index) for images in sets for index in range(len(images))),
        1 if scan is None else scan.get_image_range()[0],
        tuple(tuple(reversed(panel.get_image_size())) for panel in detector),
        all(np.issubdtype(one.dtype, np.integer) for one in arrays(raw)),
        tuple(panel.get_gain() or 1.0 for panel in detector),
    )
