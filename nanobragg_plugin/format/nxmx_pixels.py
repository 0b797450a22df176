"""What an NXmx file has of every pixel: counts, and beside them expected photons and maps.

They lie in the file itself, or in part files that hold the same data sets of some of the images.
A part's are copied as they were compressed, or referred to by virtual data sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.trusted_range import trusted_range_is_inclusive
from nanobragg_plugin.format.nxmx_models import EXPECTED, MAPS
from nanobragg_plugin.format.nxmx_tree import FrameLayout

DATA = "/entry/data/data"
COMPRESSIONS = ("gzip", "none")
# Higher levels take several times as long for a few per cent of a photon-counting image.
GZIP_LEVEL = 1
#: What HDF5 could not close, the disk being full: it complains again whenever that is forgotten.
_broken: list[tuple] = []
#: What readers get of a pixel whose part file is not there: outside what a panel trusts.
LOST = -1


@dataclass(frozen=True)
class Layer:
    """A data set ``[image, slow, fast, ...]``; attribute: its name and text."""

    path: str
    dtype: np.dtype
    of_pixel: tuple[int, ...] = ()
    attribute: tuple[str, str] | None = None


class Pixels:
    """The data sets of a detector's pixels, in frames as `FrameLayout` has them, a chunk for each
    panel; dtype: of the pixels' values; expected: whether their expected photons are there; maps:
    names of those that are."""

    def __init__(self, detector, dtype, compression=None, expected: bool = False, maps=()) -> None:
        self.layout = FrameLayout.of(detector)
        self.chunking = chunking(compression)
        self._trusted = [panel.get_trusted_range() for panel in detector]
        self.layers = [Layer(DATA, np.dtype(dtype))]
        if expected:
            self.layers.append(Layer(EXPECTED, np.dtype("float32"), (), ("units", "photons")))
        self.layers += [_map(name) for name in maps]

    def create(self, handle: h5py.File, n_images: int) -> dict[str, h5py.Dataset]:
        """Empty data sets of so many images, by their paths."""
        width, made = (self.layout.slot, self.layout.width), {}
        for layer in self.layers:
            data = handle.create_dataset(
                layer.path,
                shape=self._shape(layer, n_images),
                dtype=layer.dtype,
                chunks=(1, *width, *layer.of_pixel),
                **self.chunking,
            )
            _describe(data, layer)
            made[layer.path] = data
        return made

    def write(self, made: dict[str, h5py.Dataset], at: int, panels, expected, maps, where) -> None:
        """Write image `at` of what `create` made, arrays ``[slow, fast]`` of the panels; where: for
        messages, with {} for the panel's number."""
        has = {layer.path for layer in self.layers}
        if (expected is None) != (EXPECTED not in has):
            raise ValueError(
                f"expected photons of image {at} are "
                + ("missing" if expected is None else "more than the file has room for")
            )
        for layer in self.layers:
            if layer.path in (DATA, EXPECTED):
                frame = self._frame(panels if layer.path == DATA else expected, layer.dtype, where)
            else:
                frame = self.layout.place(maps[Path(layer.path).name], layer.dtype)
            made[layer.path][at] = frame

    def copy(self, source: h5py.File, target: h5py.File, first: int) -> None:
        """Copy all images of a part, the first to `first` of the target, as they are compressed."""
        for layer in self.layers:
            theirs, ours = source[layer.path], target[layer.path]
            if theirs.chunks != ours.chunks or theirs.dtype != ours.dtype:
                raise ValueError(f"{layer.path} of a part is laid out otherwise")
            for index in np.ndindex(*(-(-n // c) for n, c in zip(theirs.shape, theirs.chunks))):
                start = tuple(i * c for i, c in zip(index, theirs.chunks))
                mask, stored = theirs.id.read_direct_chunk(start)
                ours.id.write_direct_chunk((first + start[0], *start[1:]), stored, mask)

    def refer(
        self, handle: h5py.File, n_images: int, parts: Iterable[tuple[str, int, int]]
    ) -> None:
        """Virtual data sets of all images; parts: the names of files relative to this one's
        folder, their first image and the one after their last."""
        for layer in self.layers:
            whole = h5py.VirtualLayout(self._shape(layer, n_images), layer.dtype)
            for name, first, end in parts:
                shape = self._shape(layer, end - first)
                whole[first:end] = h5py.VirtualSource(name, layer.path, shape, layer.dtype)
            _describe(handle.create_virtual_dataset(layer.path, whole, fillvalue=LOST), layer)

    def _shape(self, layer: Layer, n_images: int) -> tuple[int, ...]:
        return (n_images, *self.layout.shape, *layer.of_pixel)

    def _frame(self, panels, dtype: np.dtype, where: str) -> np.ndarray:
        arrays = [np.asarray(panel) for panel in panels]
        shapes = [array.shape for array in arrays]
        if shapes != list(self.layout.sizes):
            raise ValueError(f"an image has panels {shapes}, the detector {self.layout.sizes}")
        kept = [
            stored(array, dtype, trusted, where.format(i))
            for i, (array, trusted) in enumerate(zip(arrays, self._trusted))
        ]
        return self.layout.place(kept, dtype)


class PartWriter:
    """Writes images `first` to `end` - 1 of a file into a file of their own, which must not exist.

    name: the file of all images, for messages.
    """

    def __init__(self, path, pixels: Pixels, first: int, end: int, name) -> None:
        self._pixels, self._first, self._name = pixels, first, name
        self._file = h5py.File(path, "x")
        self._made = pixels.create(self._file, end - first)

    def write(self, index: int, panels, expected=None, maps=None) -> None:
        """Image `index` of all; otherwise as `NXmxWriter.write`."""
        at = index - self._first
        self._pixels.write(self._made, at, panels, expected, maps, place_of(index, self._name))

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, exc_type, exc_value, traceback) -> None:
        try:
            self._file.close()
        except BaseException:
            _broken.append((self._file, self._made))
            raise


def place_of(index: int, path) -> str:
    """Where something is amiss, with {} for the panel."""
    name = str(path).replace("{", "{{").replace("}", "}}")
    return f"Image {index + 1}, panel {{}}, of {name}"


def lost_parts(data: h5py.Dataset, folder: Path) -> list[str]:
    """The part files of a virtual data set that are not there."""
    if not data.is_virtual:
        return []
    names = dict.fromkeys(source.file_name for source in data.virtual_sources())
    return [name for name in names if not (folder / name).is_file()]


def chunking(compression: str | None) -> dict:
    """The arguments of h5py's create_dataset for a compressed array."""
    name = "none" if compression is None else compression
    if name not in COMPRESSIONS:
        raise Sorry(f"Unknown compression {name}: choose from {', '.join(COMPRESSIONS)}")
    if name == "none":
        return {}
    return {"compression": "gzip", "compression_opts": GZIP_LEVEL, "shuffle": True}


def stored(
    array: np.ndarray,
    dtype: np.dtype,
    trusted: Sequence[float],
    where: str,
    mend: str = "write int32 or float32",
) -> np.ndarray:
    """Pixel values as they are stored, see `NXmxWriter.write`; where, mend: for messages."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Sorry(f"{where}: the simulation gave values that are not finite")
    if dtype.kind == "f":
        if np.abs(array).max(initial=0) > np.finfo(dtype).max:
            raise Sorry(f"{where}: a value is beyond what {dtype.name} holds")
        return array.astype(dtype)
    # float64 holds the ends of int32, float32 does not
    values = np.rint(array.astype(np.float64)) if array.dtype.kind == "f" else array
    info = np.iinfo(dtype)
    low, high = values.min(initial=0), values.max(initial=0)
    if low < info.min and not is_untrusted(info.min, trusted):
        raise Sorry(f"{where}: {low:.0f} is less than {dtype.name} holds; {mend}")
    if high > info.max and not is_untrusted(info.max, trusted):
        raise Sorry(f"{where}: {high:.0f} is more than {dtype.name} holds; {mend}")
    if low < info.min or high > info.max:
        values = np.clip(values, info.min, info.max)
    return values.astype(dtype)


def is_untrusted(value: int, trusted: Sequence[float]) -> bool:
    """Whether a value lies outside a trusted range that is set (its ends differ)."""
    low, high = trusted
    if low >= high:
        return False
    if trusted_range_is_inclusive():
        return value < low or value > high
    return value <= low or value >= high


def _map(name: str) -> Layer:
    """The layer of a map of that name."""
    if name.startswith("hkl"):
        words = "the reflection nearest to the middle of the pixel"
        return Layer(f"{MAPS}/{name}", np.dtype("int16"), (3,), ("description", words))
    return Layer(f"{MAPS}/{name}", np.dtype("float32"), (), ("units", "angstrom"))


def _describe(data: h5py.Dataset, layer: Layer) -> None:
    if layer.attribute is not None:
        data.attrs[layer.attribute[0]] = layer.attribute[1]
