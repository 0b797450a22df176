"""Masks and maps as DIALS pickles them, read without its classes.

A pickle can call anything, and flex reads what it is given without a look at its end: damaged
or malicious bytes break in or end the process. Files that an experiment list names may come
from strangers, so their few kinds of object are decoded here, by the formats of cctbx's
`scitbx/serialization/single_buffered.h` and `base_256.h`.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np


def read(data: bytes, kind: str) -> list[np.ndarray]:
    """The arrays of a pickled flex, or tuple of flex, of `kind` bool or double.

    pickle.UnpicklingError or one of FAILURES if that is not what the bytes hold.
    """
    found = _Unpickler(io.BytesIO(data), kind).load()
    found = (found,) if isinstance(found, _Flex) else found
    if not isinstance(found, (tuple, list)) or not all(isinstance(f, _Flex) for f in found):
        raise pickle.UnpicklingError(f"it holds no arrays but a {type(found).__name__}")
    return [flex.values for flex in found]


#: All that pickle raises for bytes that are no pickle.
FAILURES = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, kind: str) -> None:
        super().__init__(file, encoding="bytes")
        self._classes = {"grid": _Grid, kind: {"bool": _Bools, "double": _Doubles}[kind]}

    def find_class(self, module: str, name: str) -> Any:
        if name in self._classes and module.endswith("array_family_flex_ext"):
            return self._classes[name]
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")


class _Grid:
    """flex.grid: the shape of an array that begins at 0."""

    def __init__(self, origin: tuple = (), last: tuple = (), is_open: bool = True) -> None:
        self.shape = tuple(int(end) + (not is_open) for end in last)
        if any(origin) or len(origin) != len(last) or min(self.shape, default=0) < 0:
            raise pickle.UnpicklingError(f"its array is from {origin} to {last}")

    def __setstate__(self, focus: tuple) -> None:
        if tuple(focus) != self.shape:
            raise pickle.UnpicklingError(f"its array is padded, {focus} of {self.shape}")


class _Flex:
    values: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        grid, data = state
        if not isinstance(grid, _Grid) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("it holds no array")
        number, begin = _integer(data, 0)
        if number != math.prod(grid.shape):
            raise pickle.UnpicklingError(f"it has {number} values for an array of {grid.shape}")
        self.values = self._decoded(data[begin:], number).reshape(grid.shape)

    @staticmethod
    def _decoded(data: bytes, number: int) -> np.ndarray:
        raise NotImplementedError


class _Bools(_Flex):
    @staticmethod
    def _decoded(data: bytes, number: int) -> np.ndarray:
        """A character 0 or 1 for each."""
        characters = np.frombuffer(data, dtype=np.uint8)
        if len(characters) != number or not np.isin(characters, (48, 49)).all():
            raise pickle.UnpicklingError("its values are not 0 and 1")
        return characters == 49


class _Doubles(_Flex):
    @staticmethod
    def _decoded(data: bytes, number: int) -> np.ndarray:
        """For each the bytes of a mantissa, most significant first, and a power of 2."""
        values, at = np.empty(min(number, len(data))), 0
        for i in range(number):
            length = data[at] & 127
            if length == 0:
                values[i], at = 0.0, at + 1
                continue
            end = at + length
            if end >= len(data):
                raise pickle.UnpicklingError("it ends early")
            mantissa = int.from_bytes(data[at + 1 : end], "big")
            power, after = _integer(data, end)
            value = math.ldexp(mantissa, power - 8 * (length - 1))
            values[i], at = -value if data[at] & 128 else value, after
        if at != len(data):
            raise pickle.UnpicklingError("it does not end where its values do")
        return values


def _integer(data: bytes, at: int) -> tuple[int, int]:
    """An integer, and where it ends: the number of its bytes (128 more if it is negative), itself
    counted, and they, least significant first."""
    length = data[at] & 127
    end = at + max(length, 1)
    if end > len(data):
        raise pickle.UnpicklingError("it ends early")
    value = int.from_bytes(data[at + 1 : end], "little")
    return -value if data[at] & 128 else value, end
