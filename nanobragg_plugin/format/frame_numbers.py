"""Frames of a file whose images are not numbered from 1."""

from __future__ import annotations

from typing import Any


def frames_of_file(scan: Any, frames: list[int]) -> list[int]:
    """Frames counted from image 1, as dxtbx asks for them to load an .expt, as frames counted from
    the first image of the file, whose scan, or None, is given."""
    if scan is None:
        return frames
    first, end = scan.get_array_range()
    if first <= min(frames) and max(frames) < end:
        return [frame - first for frame in frames]
    return frames
