"""What varies along a scan, by a few numbers: a smooth curve through a few intervals."""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import BSpline
from torch import Tensor

#: Degrees of an interval, as dials.refine has it, and how many there are of a shorter scan, whose
#: images allow so many at least.
INTERVAL_DEG, INTERVALS, IMAGES = 36.0, 4, 5


def intervals_of(images: int, width_deg: float, interval_deg: float | None = None) -> int:
    """Of a scan of so many images of a width: of about interval_deg, as near as goes; None: of 36
    degrees, or a quarter of a shorter scan, but of five images at least."""
    whole = abs(images * width_deg)
    if interval_deg is not None:
        return max(1, round(whole / interval_deg))
    shorter = min(INTERVALS, images // IMAGES)
    return max(1, min(round(whole / INTERVAL_DEG), images // IMAGES), shorter)


def knots_of(intervals: int) -> int:
    """How many numbers a curve through so many intervals has."""
    return intervals + _degree(intervals)


def _degree(intervals: int) -> int:
    """Straight lines through one or two intervals, cubic splines through more."""
    return 1 if intervals < 3 else 3


def design(points: int, intervals: int) -> Tensor:
    """[points, knots]: the curve at evenly spaced points, first and last its ends, is this times
    its numbers: B-splines (de Boor 1978, A Practical Guide to Splines), whose ends are their first
    and last number, and which are constant where all numbers are the same."""
    degree = _degree(intervals)
    ends = np.zeros(degree), np.full(degree, float(intervals))
    borders = np.concatenate([ends[0], np.arange(intervals + 1.0), ends[1]])
    places = np.linspace(0, intervals, points)
    made = BSpline.design_matrix(places, borders, degree).toarray()
    return torch.from_numpy(np.ascontiguousarray(made))
