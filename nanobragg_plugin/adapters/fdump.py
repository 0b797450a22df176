"""nanoBragg.c's binary dump of structure factors, its Fdump.bin.

A line ``h_min h_max k_min k_max l_min l_max``, a form feed, then the amplitudes as float64, h
slowest and l fastest. The box of amplitudes has one layer more at the far end of each axis, which
nobody reads: zeros, also where the box was filled with a default_F.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.checks import one_line
from nanobragg_plugin.adapters.strangers import require_file
from nanobragg_plugin.structure_factors import MAX_BOX_ELEMENTS

_HEAD = re.compile(rb"\s*(-?\d{1,9})\s+(-?\d{1,9})" + rb"\s+(-?\d{1,9})" * 4 + rb"\n\f")


def read(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Every index of the box, ``[n, 3]``, int64, and its F, ``[n]``, float64, electrons.

    Sorry for what is not a whole dump of finite F >= 0.
    """
    path = Path(path)
    require_file(path, "a dump of structure factors")
    try:
        with path.open("rb") as stream:
            head = stream.read(128)
            match = _HEAD.match(head)
            if not match:
                raise Sorry(f"{path} is not a dump of structure factors by nanoBragg")
            bounds = [int(number) for number in match.groups()]
            # By size: nanoBragg.c's own fscanf goes on after the form feed through every byte
            # that looks like white space (9 to 13, 32), so it may eat the start of the first F.
            expected = match.end() + 8 * _elements(bounds, path)
            size = stream.seek(0, 2)
            if size != expected:
                raise Sorry(
                    f"{path}: the dump of structure factors has {size} bytes, its first line asks "
                    f"for {expected}: it is cut short or not of this kind; make it again from -hkl"
                )
            stream.seek(match.end())
            box = np.frombuffer(stream.read(), "<f8")
    except OSError as error:
        raise Sorry(
            f"cannot read the structure factors {path}: {error.strerror or one_line(error)}"
        ) from error
    lows, sizes = bounds[0::2], _sizes(bounds)
    amplitudes = box.reshape([n + 1 for n in sizes])[:-1, :-1, :-1].reshape(-1).astype(np.float64)
    indices = np.indices(sizes).reshape(3, -1).T + np.array(lows)
    _refuse(~np.isfinite(amplitudes), indices, amplitudes, path, "not a finite number")
    _refuse(amplitudes < 0, indices, amplitudes, path, "negative")
    return indices, amplitudes


def to_bytes(indices: np.ndarray, amplitudes: np.ndarray, default_F: float = 0.0) -> bytes:
    """The dump of F ``[n]``, electrons, at distinct indices ``[n, 3]``, integers; the rest of the
    box that they span is default_F.
    """
    if indices.ndim != 2 or indices.shape[1:] != (3,) or indices.dtype.kind not in "iu":
        raise ValueError(f"indices are integers [n, 3], not {indices.dtype} {indices.shape}")
    if not len(indices) or amplitudes.shape != indices.shape[:1]:
        raise ValueError(f"{amplitudes.shape} amplitudes for {len(indices)} indices")
    low, high = (bound.astype(np.int64) for bound in (indices.min(axis=0), indices.max(axis=0)))
    bounds = [int(bound) for pair in zip(low, high) for bound in pair]
    sizes = _sizes(bounds)
    if sizes[0] * sizes[1] * sizes[2] > MAX_BOX_ELEMENTS:
        raise ValueError(f"the indices from {low} to {high} span too large a box")
    box = np.zeros([n + 1 for n in sizes], dtype="<f8")
    box[:-1, :-1, :-1] = default_F
    box[tuple((indices - low).T)] = amplitudes
    return (" ".join(map(str, bounds)) + "\n\f").encode("ascii") + box.tobytes()


def _sizes(bounds: list[int]) -> list[int]:
    """How many h, k and l there are."""
    return [high - low + 1 for low, high in zip(bounds[0::2], bounds[1::2])]


def _elements(bounds: list[int], path: Path) -> int:
    """How many numbers the file holds, the extra layers included."""
    sizes = _sizes(bounds)
    if min(sizes) < 1:
        raise Sorry(
            f"{path}: the dump of structure factors spans no indices: its first line is "
            f"{' '.join(map(str, bounds))}"
        )
    if sizes[0] * sizes[1] * sizes[2] > MAX_BOX_ELEMENTS:
        raise Sorry(f"{path}: the dump of structure factors spans a box of {sizes}: too many")
    h, k, l = sizes
    return (h + 1) * (k + 1) * (l + 1)


def _refuse(
    bad: np.ndarray, indices: np.ndarray, amplitudes: np.ndarray, path: Path, what: str
) -> None:
    """Sorry naming the first F that is bad."""
    if bad.any():
        first = int(bad.argmax())
        raise Sorry(f"{path}: F of {tuple(indices[first].tolist())} is {amplitudes[first]}: {what}")


def is_dump(head: bytes) -> bool:
    """Whether a file that begins so is a dump."""
    return _HEAD.match(head) is not None
