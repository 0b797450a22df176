"""Writes simulated images as one NXmx (HDF5) file that any NXmx reader opens.

The file appears under its name only when it is whole: until then it is a hidden temporary file
of the same folder, which is removed if anything goes wrong.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import h5py
import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.trusted_range import trusted_range_is_inclusive
from nanobragg_plugin.format.nxmx_frames import lab_rotation
from nanobragg_plugin.format.nxmx_images import write_crystals, write_image_models
from nanobragg_plugin.format.nxmx_pixels import Pixels, place_of
from nanobragg_plugin.format.nxmx_tree import write_mask, write_own_group, write_tree

# What every dxtbx reads as it was written: float64 is downcast by 3.11, uint32 wraps there.
DTYPES = ("int32", "uint16", "float32")


class NXmxWriter:
    """Writes the images of one experiment, in any order, as a context manager.

    experiment: a dxtbx Experiment with detector and beam; goniometer, scan, crystal may be None.
    n_images: number of images; by default the scan's, or 1 without a scan.
    dtype: int32, uint16 or float32.
    compression: gzip (with shuffle, which every HDF5 has) or none.
    provenance: anything JSON holds; the caller says here how the images were made.
    mask: for each panel an array of bool ``[slow, fast]``, True where the pixel is good.
    expected: the pixels are expected photons, not counts; needs float32.
    crystals: all that are in the images, if not the experiment's alone.
    models_of: a function of the image's index, an experiment whose beam and crystal it has.
    spectrum: wavelengths, Angstrom, and the photons of each, two arrays; None: one wavelength.
    maps: names of what else each pixel gets, `nxmx_models.MAPS`: hkl ... (int16, three numbers), or
    Angstrom (float32).
    with_expected: beside the pixels the file has a second data set, `nxmx_models.EXPECTED`, of what
    was expected of them: float32, photons, which stock readers do not look at.
    parts: files that hold the images, as `Pixels.refer` has them, to which this one then refers.

    Raises Sorry for what cannot be written, before anything is. A single panel behind the sample,
    facing back along the beam, is mirrored in z by stock readers (they take it for a mistake);
    FormatNXmxNanoBragg reads it right.
    """

    def __init__(
        self,
        path,
        experiment,
        *,
        n_images: int | None = None,
        dtype: str = "int32",
        compression: str | None = "gzip",
        provenance: dict | None = None,
        mask=None,
        expected: bool = False,
        crystals=(),
        models_of=None,
        spectrum=None,
        with_expected: bool = False,
        maps=(),
        parts=None,
    ):
        self._file = None
        self._path = Path(path)
        self.names: list[Path] = []
        self._dtype = np.dtype(dtype)
        self._n_images = number_of_images(experiment, n_images)
        self._written = np.zeros(self._n_images, dtype=bool)
        _check_dtype(experiment.detector, self._dtype, expected)
        self._pixels = Pixels(experiment.detector, dtype, compression, with_expected, maps)
        self._temporary = self._path.with_name(
            f".{self._path.name}.{os.getpid()}-{secrets.token_hex(4)}.part"
        )
        self._file = _create(self._path, self._temporary)
        try:
            rotation = lab_rotation(experiment.beam)
            write_tree(self._file, experiment, self._n_images, rotation, spectrum)
            content = "expected photons" if expected else "counts"
            write_own_group(self._file, experiment, rotation, content, provenance)
            if len(crystals) > 1:
                write_crystals(self._file, crystals)
            if models_of is not None:
                write_image_models(self._file, models_of, self._n_images)
            pixels = self._pixels
            write_mask(self._file, experiment.detector, pixels.layout, mask, pixels.chunking)
            if parts is None:
                self._made = pixels.create(self._file, self._n_images)
            else:
                pixels.refer(self._file, self._n_images, parts)
                self._written[:] = True
        except BaseException:
            self.discard()
            raise

    def __enter__(self) -> NXmxWriter:
        return self

    def __exit__(self, exc_type, exc_value, traceback) -> None:
        if exc_type is None:
            self.close()
        else:
            self.discard()

    def write(self, index: int, panels, expected=None, maps=None) -> None:
        """Write image ``index`` (0-based, each once), an array ``[slow, fast]`` for each panel.

        expected: likewise, photons; maps: likewise, by name; if, and only if, the file has them.

        Integer types hold numbers rounded to the nearest integer; a value beyond the type is
        clipped only where the end of the type lies outside the trusted range, so that it stays an
        overload, and is a Sorry otherwise; so is a value that is not finite.
        """
        if not 0 <= index < self._n_images:
            raise IndexError(f"image {index} of a file of {self._n_images} images")
        if self._written[index]:
            raise ValueError(f"image {index} was written before")
        where = place_of(index, self._path)
        self._pixels.write(self._made, index, panels, expected, maps, where)
        self._written[index] = True

    def take(self, path, first: int, end: int) -> None:
        """Take images `first` to `end` - 1, which `PartWriter` wrote into a file."""
        with h5py.File(path, "r") as part:
            self._pixels.copy(part, self._file, first)
        self._written[first:end] = True

    def close(self) -> None:
        """Give the whole file its name. An image missing is a Sorry, and nothing is left."""
        if self._file is None:
            return
        missing = np.flatnonzero(~self._written)
        if len(missing):
            self.discard()
            raise Sorry(
                f"{self._path} was not written: {len(missing)} of its {self._n_images} images "
                f"are missing, the first of them image {missing[0] + 1}"
            )
        try:
            self._file.close()
            os.replace(self._temporary, self._path)
        except BaseException:
            self.discard()
            raise
        self._file = None
        self.names = [self._path]

    def discard(self) -> None:
        """Give up: close and remove the temporary file; what was at the path stays as it was."""
        if self._file is None:
            return
        handle, self._file = self._file, None
        try:
            handle.close()
        finally:
            self._temporary.unlink(missing_ok=True)


def number_of_images(experiment, n_images: int | None) -> int:
    """How many images the file has; Sorry where models are missing or contradict it."""
    for name in ("detector", "beam"):
        if getattr(experiment, name) is None:
            raise Sorry(f"The experiment has no {name}: an image file needs one")
    scan = experiment.scan
    turns = scan is not None and not scan.is_still()
    if turns and experiment.goniometer is None:
        raise Sorry("The experiment has a scan that turns, and no goniometer to turn")
    if n_images is None:
        n_images = 1 if scan is None else scan.get_num_images()
    if n_images < 1:
        raise Sorry(f"A file of {n_images} images was asked for: at least one is needed")
    if turns and n_images != scan.get_num_images():
        raise Sorry(
            f"A file of {n_images} images was asked for, the scan has {scan.get_num_images()}"
        )
    return n_images


def _check_dtype(detector, dtype: np.dtype, expected: bool) -> None:
    """Sorry unless the type is one that readers know and that holds what the panels trust."""
    if dtype.name not in DTYPES:
        raise Sorry(f"Pixels cannot be written as {dtype.name}: choose from {', '.join(DTYPES)}")
    if expected and dtype.kind != "f":
        raise Sorry(f"Expected photons are fractions, {dtype.name} holds none: choose float32")
    if dtype.name != "uint16":
        return
    for i, panel in enumerate(detector):
        low, high = panel.get_trusted_range()
        step = 0 if trusted_range_is_inclusive() else 1
        if low < high and (low + step < 0 or high - step > 65535):
            raise Sorry(
                f"Panel {i} trusts values from {low:g} to {high:g}, which uint16 does not hold: "
                f"write int32, or set the panel's trusted_range within 0 to 65535"
            )


def _create(path: Path, temporary: Path) -> h5py.File:
    """Open the temporary file; Sorry where the output could not be put in its place."""
    folder = path.parent
    if not folder.is_dir():
        raise Sorry(f"Cannot write {path}: the folder {folder} does not exist")
    if path.is_dir():
        raise Sorry(f"Cannot write {path}: it is a folder")
    if not os.access(folder, os.W_OK):
        raise Sorry(f"Cannot write {path}: the folder {folder} is not writable")
    try:
        return h5py.File(temporary, "x")
    except OSError as error:
        raise Sorry(f"Cannot write {path}: {error}") from error
