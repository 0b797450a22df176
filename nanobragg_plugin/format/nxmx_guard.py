"""What an NXmx file of ours never has: files may come from strangers.

HDF5 follows links and storage to any file of the machine, gives memory to whatever shape is
declared, and inflates a few bytes to gigabytes. A file of ours is read only if all of it lies in
itself, or, of its pixels, in files beside it (virtual data sets).
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
from libtbx.utils import Sorry

#: Groups and data sets; a detector of 256 panels has some 3000.
MAX_OBJECTS = 50_000
#: Bytes of an image, of a chunk of several: 11000 x 11000 pixels.
MAX_FRAME = 1 << 29
#: Bytes of any other data set, and of the models as JSON.
MAX_OTHER, MAX_JSON = 1 << 26, 1 << 25
#: Chunks of an image, or of any other data set: ours have one for each panel.
MAX_CHUNKS = 10_000
#: deflate's best: bytes that one byte becomes (https://zlib.net/zlib_tech.html).
MOST_INFLATED = 1032
#: What there is of every pixel of every image, and in `_MAPS` more of it; what a mask is called.
PIXELS, MASK = ("/entry/data/data", "/entry/nanobragg/expected"), "pixel_mask"
_MAPS = "/entry/nanobragg/maps/"

_FILTERS = ([], [h5py.h5z.FILTER_DEFLATE], [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE])


def member(group: h5py.Group, name: str) -> Any:
    """A group or data set that lies in this very group; None for a link, or where there is none.

    `group[name]` and `name in group` would open the file that an external link names.
    """
    if not isinstance(group, h5py.Group):
        return None
    link = group.get(name, getlink=True)
    return group[name] if isinstance(link, h5py.HardLink) else None


def check_file(handle: h5py.File, path: str | Path) -> None:
    """`Sorry` for an open file that reaches out of itself, or is far larger than its bytes."""
    for name, item in _items(handle, path):
        if not isinstance(item, h5py.Dataset):
            continue
        if item.external:
            raise Sorry(f"{path}: {name} has its values in another file: it is not ours")
        _check_size(name, item, path)
        if item.is_virtual:
            for source in item.virtual_sources():
                _check_part(source, name, path)
        elif MASK in name and item.shape:
            check_chunks(item, (), path)


def check_frame(data: h5py.Dataset, index: int, path: str | Path) -> None:
    """`Sorry` where an image of a data set would unpack to more than it is; `check_file` passed."""
    if not data.is_virtual:
        check_chunks(data, (index,), path)
        return
    for source in data.virtual_sources():
        first, last = _images_of(source.vspace, data.shape[0])
        part = Path(path).parent / source.file_name
        if first <= index <= last and part.is_file():
            with h5py.File(part, "r", swmr=True) as handle:
                theirs = handle[source.dset_name]
                begin = _images_of(source.src_space, theirs.shape[0])[0]
                check_chunks(theirs, (begin + index - first,), part)


def _images_of(space: Any, number: int) -> tuple[int, int]:
    """The first and last image that a selection of an HDF5 data space has."""
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return 0, number - 1
    low, high = space.get_select_bounds()
    return low[0], high[0]


def check_chunks(data: h5py.Dataset, at: tuple[int, ...], path: str | Path) -> None:
    """`Sorry` where a chunk of a data set, or of its image ``data[at]``, unpacks to more than it
    should."""
    if data.chunks is None or not data.id.get_create_plist().get_nfilters():
        return
    expected = data.dtype.itemsize * math.prod(data.chunks)
    edges = zip(data.shape[len(at) :], data.chunks[len(at) :])
    for rest in itertools.product(*(range(0, length, edge) for length, edge in edges)):
        chunk = data.id.get_chunk_info_by_coord((*at, *rest))
        if chunk.byte_offset is None or chunk.size * MOST_INFLATED <= MAX_FRAME:
            continue  # not written, or harmless whatever it is
        if chunk.size > expected + expected // 50 + 4096:
            raise Sorry(f"{path}: a chunk of {data.name} is longer than its pixels")
        _, packed = data.id.read_direct_chunk(chunk.chunk_offset)
        if len(zlib.decompressobj().decompress(packed, expected + 1)) > expected:
            raise Sorry(f"{path}: a chunk of {data.name} unpacks to more than its pixels")


def read_json(group: h5py.Group, name: str, path: str | Path) -> Any:
    """A text of JSON in a group; `Sorry` for anything else."""
    item = member(group, name)
    if not isinstance(item, h5py.Dataset) or item.shape != () or item.dtype.kind not in "OS":
        raise Sorry(f"{path}: its nanobragg group has no text {name}")
    if item.dtype.itemsize > MAX_JSON or h5py.check_string_dtype(item.dtype) is None:
        raise Sorry(f"{path}: its nanobragg group has no text {name}, or far too long a one")
    try:
        return loads(item[()])
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise Sorry(f"{path}: {name} of its nanobragg group is damaged: {reason}") from error


def loads(text: bytes | str) -> Any:
    """JSON, not too long and not too deep; ValueError."""
    if len(text) > MAX_JSON:
        raise ValueError(f"it has {len(text)} bytes")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _items(handle: h5py.File, path: str | Path) -> Iterator[tuple[str, Any]]:
    """Name and object of everything in a file, each object once; `Sorry` for links out of it."""
    seen, waiting, count = set(), [("", handle["/"])], 0
    while waiting:
        parent, group = waiting.pop()
        for name in group:
            count += 1
            full = f"{parent}/{name}"
            if count > MAX_OBJECTS:
                raise Sorry(f"{path} has more than {MAX_OBJECTS} objects: it is not ours")
            item = member(group, name)
            if item is None:
                raise Sorry(f"{path}: {full[:200]!r} is a link to elsewhere: it is not ours")
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            yield full, item
            if isinstance(item, h5py.Group):
                waiting.append((full, item))


def _check_size(name: str, item: h5py.Dataset, path: str | Path) -> None:
    """`Sorry` for a data set of more bytes, or more kinds of packing, than ours have."""
    plist = item.id.get_create_plist()
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    pixels = _is_of_pixels(name) or name.rsplit("/", 1)[-1].startswith(MASK)
    if filters not in _FILTERS or (filters and not pixels):
        raise Sorry(f"{path}: {name[:200]} is packed as none of ours is")
    if item.shape is None:
        return
    size, frame = item.dtype.itemsize, item.shape[1:] if len(item.shape) > 2 else item.shape
    shapes = [frame if pixels else item.shape, item.chunks or ()]
    for shape, limit in zip(shapes, (MAX_FRAME if pixels else MAX_OTHER, MAX_FRAME)):
        if size * math.prod(shape) > limit:
            raise Sorry(f"{path}: {name[:200]} has {item.shape} values of {size} bytes: too many")
    edges = zip(reversed(shapes[0]), reversed(item.chunks or shapes[0]))
    if math.prod(-(-length // max(1, edge)) for length, edge in edges) > MAX_CHUNKS:
        raise Sorry(f"{path}: {name[:200]} is in chunks of {item.chunks} values: too small")


def _is_of_pixels(name: str) -> bool:
    """Whether a data set has something of each pixel of each image: it may be in parts."""
    return name in PIXELS or name.startswith(_MAPS)


def _check_part(source: Any, name: str, path: str | Path) -> None:
    """`Sorry` unless a part of a virtual data set is in a file beside this one, and plain there."""
    if not _is_of_pixels(name):
        raise Sorry(f"{path}: {name} is made of parts, which only pixels are")
    plain = source.file_name == Path(source.file_name).name and "%" not in source.file_name
    if not plain or source.file_name in ("..", Path(path).name):
        raise Sorry(
            f"{path}: a part of {name} is in {source.file_name[:200]!r}: only files beside this "
            "one are read"
        )
    part = Path(path).parent / source.file_name
    if not part.exists():
        return  # its images will be missing
    if not part.is_file():
        raise Sorry(f"{part}, a part of {path}, is no file")
    with h5py.File(part, "r", swmr=True) as handle:
        item: Any = handle
        for one in source.dset_name.strip("/").split("/"):
            item = member(item, one)
        if not isinstance(item, h5py.Dataset):
            raise Sorry(f"{part}, a part of {path}, has no data set {source.dset_name[:200]!r}")
        if item.external or item.is_virtual:
            raise Sorry(f"{part}, a part of {path}, has its values in another file")
        _check_size(name, item, part)
