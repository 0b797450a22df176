"""What all writers of images have in common, and those that write a file for every image."""

from __future__ import annotations

import datetime
import os
import secrets
from pathlib import Path
from typing import Protocol

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.trusted_range import trusted_range_is_inclusive
from nanobragg_plugin.format.header_models import packed_text
from nanobragg_plugin.format.nxmx_models import FORMAT_VERSION, experiment_to_dict
from nanobragg_plugin.format.nxmx_pixels import stored
from nanobragg_plugin.format.nxmx_writer import number_of_images

#: What stands for an image's number in the name of a file; dxtbx's templates have the same.
NUMBER = "#####"


class ImageWriter(Protocol):
    """A context manager that takes the images of one experiment in any order, each once.

    names: the files that have been written, under their own names, when it is closed.
    """

    names: list[Path]

    def __enter__(self) -> ImageWriter: ...

    def __exit__(self, exc_type, exc_value, traceback) -> None: ...

    def write(self, index: int, panels, expected=None, maps=None) -> None:
        """Image ``index``, from 0: arrays ``[slow, fast]`` of the panels; expected: their photons
        without noise, likewise, where the file keeps them; maps: likewise, by name."""

    def close(self) -> None:
        """All is written; Sorry, and nothing is left, if it is not."""

    def discard(self) -> None:
        """Give up: what was written goes."""


def image_path(template: Path, number: int) -> Path:
    """The file of an image; Sorry where its number does not fit into the name."""
    digits = f"{number:0{len(NUMBER)}d}"
    if number < 0 or len(digits) > len(NUMBER):
        raise Sorry(
            f"image number {number} has no file name {template.name}: use numbers from 0 to "
            f"{10 ** len(NUMBER) - 1}, or output.format=nxmx"
        )
    return template.with_name(template.name.replace(NUMBER, digits))


def image_numbers(experiment, n_images: int) -> list[int]:
    """The numbers that the scan gives the images; from 1 without a scan."""
    first = 1 if experiment.scan is None else experiment.scan.get_image_range()[0]
    return list(range(first, first + n_images))


def times_of_image(scan, index: int) -> tuple[float, datetime.datetime]:
    """Exposure time, s, and moment (UTC) of an image, as the scan has them; else 0 and 1970."""
    exposures, epochs = ([], []) if scan is None else (scan.get_exposure_times(), scan.get_epochs())
    exposure = exposures[index] if index < len(exposures) else 0.0
    epoch = epochs[index] if index < len(epochs) else 0.0
    # datetime ends with the year 9999
    seconds = epoch if abs(epoch) < 6e10 else 0.0
    return exposure, datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)


def models_of_image(experiment, index: int, provenance: dict) -> str:
    """What one image was made from, for its header: its own part of the scan, models as they are
    without scan points (which an experiment list keeps for all images), provenance.

    JSON, compressed, as `packed_text` has it.
    """
    models = experiment_to_dict(experiment)
    for model in models.values():
        if isinstance(model, dict):
            for name in [name for name in model if name.endswith("_at_scan_points")]:
                del model[name]
    if experiment.scan is not None:
        models["scan"] = experiment.scan[index : index + 1].to_dict()
    return packed_text(
        {"format_version": FORMAT_VERSION, "models": models, "provenance": provenance}
    )


class FilePerImage:
    """Writes a file for every image. A subclass says how: `dtype`, and `_write_file`.

    template: the name of the files, `NUMBER` in the place of the image's. Each appears under its
    own name only when it is whole; if the writer is discarded, all that it wrote go.
    mask: for each panel an array of bool ``[slow, fast]``, True where the pixel is good; bad
    pixels, and untrusted rectangles of the panels, get the value `bad_value`, if there is one.
    models_of: a function of the image's index, the experiment whose models it has, if not the one.
    """

    dtype: np.dtype
    kind: str  # as messages call the files
    mend: str  # what to do about values that they do not hold

    def __init__(
        self,
        template,
        experiment,
        *,
        n_images=None,
        provenance=None,
        mask=None,
        models_of=None,
    ):
        self.n_images = number_of_images(experiment, n_images)
        self.check(experiment)
        self._template = Path(template)
        self._experiment, self._models_of = experiment, models_of
        self._provenance = provenance or {}
        self._numbers = image_numbers(experiment, self.n_images)
        for number in (self._numbers[0], self._numbers[-1]):
            image_path(self._template, number)
        detector = experiment.detector
        self._shapes = [panel.get_image_size()[::-1] for panel in detector]
        self._trusted = [panel.get_trusted_range() for panel in detector]
        good = [panel.get_untrusted_rectangle_mask().as_numpy_array() for panel in detector]
        if mask is not None:
            good = [one & np.asarray(other) for one, other in zip(good, mask)]
        self._bad = [~one for one in good]
        self.names: list[Path] = []
        self._written: set[int] = set()

    @classmethod
    def check(cls, experiment) -> None:
        """Sorry for an experiment whose images such files, or their readers, do not hold."""
        scan = experiment.scan
        if scan is not None and not scan.is_still() and scan.get_oscillation()[1] < 0:
            raise Sorry(
                f"The scan turns backwards, {scan.get_oscillation()[1]:g} degrees an image, which"
                f" dxtbx does not read from {cls.kind} files: give the goniometer the opposite axis"
                " and the scan opposite angles"
            )

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc_value, traceback) -> None:
        if exc_type is None:
            self.close()
        else:
            self.discard()

    def write(self, index: int, panels, expected=None, maps=None) -> None:
        """As `ImageWriter` has it; numbers as `NXmxWriter.write` has them."""
        if expected is not None or maps is not None:
            raise ValueError(f"{self.kind} files have no place for expected photons or maps")
        if not 0 <= index < self.n_images:
            raise IndexError(f"image {index} of {self.n_images} images")
        if index in self._written:
            raise ValueError(f"image {index} was written before")
        arrays = [np.asarray(panel) for panel in panels]
        if [array.shape for array in arrays] != self._shapes:
            raise ValueError(
                f"image {index} has panels {[a.shape for a in arrays]}, the detector {self._shapes}"
            )
        path = image_path(self._template, self._numbers[index])
        values = [self._values(i, array, path) for i, array in enumerate(arrays)]
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        try:
            self._write_file(temporary, index, values)
            os.replace(temporary, path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise Sorry(
                f"{path} cannot be written: {reason}; make room, or write elsewhere"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        self._written.add(index)
        self.names.append(path)

    def close(self) -> None:
        """Sorry, and nothing is left, if an image is missing."""
        missing = sorted(set(range(self.n_images)) - self._written)
        if missing:
            self.discard()
            raise Sorry(
                f"{self._template} was not written: {len(missing)} of {self.n_images} images are "
                f"missing, the first of them image {self._numbers[missing[0]]}"
            )

    def discard(self) -> None:
        for path in self.names:
            path.unlink(missing_ok=True)
        self.names.clear()

    def _values(self, panel: int, array: np.ndarray, path: Path) -> np.ndarray:
        where = f"Panel {panel} of {path}"
        values = stored(array, self.dtype, self._trusted[panel], where, self.mend)
        bad = self.bad_value(panel)
        if bad is None or not self._bad[panel].any():
            return values
        return np.where(self._bad[panel], self.dtype.type(bad), values)

    def models(self, index: int):
        """The dxtbx experiment of an image."""
        return self._experiment if self._models_of is None else self._models_of(index)

    def bad_value(self, panel: int) -> float | None:
        """What a bad pixel of a panel is set to, or None: nothing marks it."""
        return None

    def _write_file(self, path: Path, index: int, panels: list[np.ndarray]) -> None:
        raise NotImplementedError


def exclusive_range(panel) -> tuple[float, float]:
    """A panel's trusted range without its ends, whatever this dxtbx means by it."""
    low, high = panel.get_trusted_range()
    if trusted_range_is_inclusive() and low < high:
        return low - 1, high + 1
    return low, high
