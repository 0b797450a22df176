"""Read an SMV image as nanoBragg.c reads its -img and -mask: pixels, and numbers of the header.

A keyword is looked up as nanoBragg.c does (its GetFrame and ValueOf): its last occurrence anywhere
in the header counts, also inside a longer keyword, and the number after the next ``=`` is its
value. So DISTANCE is the CLOSE_DISTANCE of a header that has it further down, and ORGX is XDS_ORGX.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.checks import one_line
from nanobragg_plugin.adapters.strangers import require_file

#: How an SMV file starts, as far as nanoBragg.c compares.
MAGIC = b"{\nHEADER_BYT"

#: nanoBragg.c's longest header has fewer bytes more than the 512 it states.
OVERRUN = 512

_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)", re.ASCII)
_TYPE = re.compile(r"\bTYPE\s*=\s*([^;\n]*)")
_BYTE_ORDER = re.compile(r"BYTE_ORDER\s*=\s*big_endian")


@dataclass(frozen=True)
class HeaderValues:
    """The numbers of a header, by keyword; `path` is named where one is wrong."""

    text: str
    path: Path

    def get(self, keyword: str) -> float | None:
        """The keyword's value, None where the header does not have it, Sorry if no number."""
        at = self.text.rfind(keyword)
        if at < 0:
            return None
        _, equals, rest = self.text[at + len(keyword) :].partition("=")
        match = _NUMBER.match(rest)
        if not equals or not match or not math.isfinite(float(match.group(1))):
            found = re.split("[;\n]", rest.strip() if equals else "")[0]
            raise Sorry(
                f"{self.path}: {keyword} in the header of the SMV image is "
                f"{found[:40].strip()!r}, not a number; mend the header"
            )
        return float(match.group(1))


@dataclass(frozen=True)
class SmvImage:
    """An SMV image: width (fast) and height (slow) in pixels, the header's values in the units it
    has them in, data uint16 ``[slow, fast]``."""

    width: int
    height: int
    values: HeaderValues
    data: np.ndarray


def read(path: str | Path) -> SmvImage:
    """Sorry for what is no SMV file of 16-bit pixels, or not a whole one."""
    path = Path(path)
    require_file(path, "an SMV image")
    try:
        with path.open("rb") as stream:
            return _read(stream, path)
    except OSError as error:
        raise Sorry(
            f"cannot read the SMV image {path}: {error.strerror or one_line(error)}"
        ) from error


def _read(stream: BinaryIO, path: Path) -> SmvImage:
    size = stream.seek(0, os.SEEK_END)
    values, start = _header(stream, path)
    kind = _TYPE.search(values.text)
    if kind and re.search("float|double|long|char|byte", kind.group(1), re.IGNORECASE):
        raise Sorry(
            f"{path}: the SMV image has pixels of TYPE {kind.group(1)[:40].strip()!r}: "
            "only unsigned_short is read; convert it"
        )
    width, height = _size(values)
    n_bytes = 2 * width * height
    # nanoBragg.c's text may run over its HEADER_BYTES: the pixels come right after it
    text_end = len(values.text) + len("\f")
    if text_end > start and size == text_end + n_bytes:
        start = text_end
    if len(values.text) > start:
        raise Sorry(f"{path}: the header of the SMV image does not end within its HEADER_BYTES")
    if size < start + n_bytes:
        raise Sorry(
            f"{path}: the SMV image is cut short: {width} x {height} pixels need "
            f"{start + n_bytes} bytes, it has {size}"
        )
    stream.seek(start)
    # nanoBragg.c does not swap; zero or not, which is all it asks of a mask, is the same
    order = ">u2" if _BYTE_ORDER.search(values.text) else "<u2"
    data = np.frombuffer(stream.read(n_bytes), order).astype(np.uint16)
    return SmvImage(width, height, values, data.reshape(height, width))


def _header(stream: BinaryIO, path: Path) -> tuple[HeaderValues, int]:
    """The header, and the number of bytes it says to have."""
    stream.seek(0)
    head = stream.read(512)
    if not head.startswith(MAGIC):
        raise Sorry(f"{path} is not an SMV image: it does not start with {{ and HEADER_BYTES")
    # HEADER_BYTES is the first keyword; the rest need not be text
    first = head.split(b";", 1)[0].decode("latin-1")
    start = _whole_number(HeaderValues(first, path), "HEADER_BYTES")
    if not start or start > 1 << 20:
        raise Sorry(f"{path}: the header of the SMV image gives no HEADER_BYTES from 1 to 1048576")
    stream.seek(0)
    # C's strings end at the first zero
    text = stream.read(start + OVERRUN).split(b"\0", 1)[0]
    end = text.rfind(b"}", 0, start)
    if end < 0:
        end = text.find(b"}\f")
    if end < 0:
        raise Sorry(f"{path}: the header of the SMV image has no closing brace: is it cut short?")
    try:
        return HeaderValues(text[: end + 1].decode("ascii"), path), start
    except UnicodeDecodeError as error:
        raise Sorry(
            f"{path}: the header of the SMV image has a byte that is not text, at {error.start}"
        ) from error


def _size(values: HeaderValues) -> tuple[int, int]:
    """(fast, slow) pixels; square ones may be given by DETECTOR_DIMENSIONS."""
    width, height = (_whole_number(values, keyword) for keyword in ("SIZE1", "SIZE2"))
    if not width:
        width = height = _whole_number(values, "DETECTOR_DIMENSIONS")
    if not width or not height:
        raise Sorry(
            f"{values.path}: the header of the SMV image gives no size: SIZE1 and SIZE2 must be "
            "the numbers of pixels"
        )
    return width, height


def _whole_number(values: HeaderValues, keyword: str) -> int | None:
    """A value that counts something; None where the header does not have it."""
    value = values.get(keyword)
    if value is None:
        return None
    if value < 0 or value != int(value):
        raise Sorry(
            f"{values.path}: {keyword} in the header of the SMV image is {value:g}: it must be a "
            "whole number, not negative"
        )
    return int(value)
