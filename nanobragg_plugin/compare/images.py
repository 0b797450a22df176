"""Images of the same models, pixel by pixel, one image at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.compared_images import blocks
from nanobragg_plugin.compare.shells import PIXELS, Shells, ratio

#: Histogram of Z: from -REACH to REACH.
REACH, BINS = 6.0, 48
#: Photons from which on counting noise is about normal: a histogram of its own.
MANY = 25.0
#: Dots along an edge of a residual map of a panel, at most.
SHOWN = 400


@dataclass(frozen=True)
class Settings:
    """first, last: numbers of the images, None: all; expected: whether the truth is photons
    expected, not counted; minimum: photons of a pixel whose Z is taken; noise: the other's readout
    noise, its own units; map_of: which image's residuals are kept, None: the worst."""

    first: int | None
    last: int | None
    expected: bool
    minimum: float
    noise: float
    map_of: int | None
    n_shells: int


@dataclass
class Sums:
    """Sums over pixels, one each shell: see `add`."""

    values: np.ndarray

    @classmethod
    def zero(cls, n: int) -> Sums:
        """Of no pixel, for n shells."""
        return cls(np.zeros((11, n)))

    def add(self, shell: np.ndarray, a: np.ndarray, b: np.ndarray, z: np.ndarray) -> None:
        """Pixels [n] of the shells `shell`: truth, other, and Z (NaN where too dim)."""
        bright = np.isfinite(z)
        zed = np.where(bright, z, 0)
        # one at a time: each is as large as the image
        terms: tuple[Callable[[], np.ndarray], ...] = (
            *(lambda: np.ones_like(a), lambda: a, lambda: b),
            *(lambda: a * a, lambda: b * b, lambda: a * b, lambda: (b - a) ** 2),
            *(lambda: bright.astype(float), lambda: zed, lambda: zed * zed),
            lambda: np.where(bright, 0, b - a),
        )
        for row, term in zip(self.values, terms):
            row += np.bincount(shell, term(), len(row))

    def total(self) -> Sums:
        """All shells as one."""
        return Sums(self.values.sum(axis=1, keepdims=True))

    def figures(self) -> list[dict]:
        """Of each shell: pixels, means, CC, rms difference, mean and width of Z, chi^2 a pixel."""
        return [_figures(*column) for column in self.values.T.tolist()]


def _figures(n, a, b, aa, bb, ab, dd, nz, z, zz, dim) -> dict:
    variances = aa - ratio(a * a, n), bb - ratio(b * b, n)
    product = variances[0] * variances[1]
    usable = min(variances) > 1e-12 * max(aa, bb)
    return {
        "pixels": int(n),
        "mean_true": ratio(a, n),
        "mean": ratio(b, n),
        "cc": (ab - ratio(a * b, n)) / product**0.5 if usable else float("nan"),
        "rms": ratio(dd, n) ** 0.5,
        "z_pixels": int(nz),
        "z_mean": ratio(z, nz),
        "z_width": max(0.0, ratio(zz, nz) - ratio(z, nz) ** 2) ** 0.5 if nz else float("nan"),
        "chi2": ratio(zz, nz),
        "dim_pixels_difference": dim,
    }


def check_shapes(true: Any, other: Any) -> None:
    """`Sorry` unless two `Images` have panels of the same sizes."""
    if true.shapes != other.shapes:
        said = [f"{len(i.shapes)} of {'x'.join(map(str, i.shapes[0]))}" for i in (true, other)]
        raise Sorry(
            f"{true.name} and {other.name} are of different detectors: panels, slow x fast pixels "
            f"of the first: {said[0]} and {said[1]}"
        )


def numbers_of(true: Any, other: Any, settings: Settings) -> range:
    """The numbers of the images that are compared; `Sorry` where one set lacks them, or they lack
    the one whose residuals are asked for."""
    numbers = _numbers(true, other, settings)
    if settings.map_of is not None and settings.map_of not in numbers:
        raise Sorry(
            f"images.map={settings.map_of}: the images compared are {numbers[0]} to {numbers[-1]}"
        )
    return numbers


def _numbers(true: Any, other: Any, settings: Settings) -> range:
    ranges = (true.first, true.last), (other.first, other.last)
    if settings.first is None:
        if ranges[0] != ranges[1]:
            said = " and ".join(f"{a} to {b}" for a, b in ranges)
            raise Sorry(
                f"{true.name} and {other.name} have images {said}: choose those that both have "
                "with images.image_range="
            )
        return range(true.first, true.last + 1)
    for images, (low, high) in zip((true, other), ranges):
        if not low <= settings.first <= settings.last <= high:
            raise Sorry(
                f"images.image_range={settings.first},{settings.last}: the images of "
                f"{images.name} are {low} to {high}"
            )
    return range(settings.first, settings.last + 1)


def compare_images(
    true: Any, other: Any, settings: Settings, tick: Callable[[], Any] = lambda: None
) -> tuple[dict, dict]:
    """Figures of two `Images`, and the residual map: its image number, and an array a panel.

    Z = (other - mu)/sigma. Where the truth is expected photons mu, sigma^2 is mu; where it is
    counts n, that of their difference, the sum of both. Readout noise is added. Pixels of fewer
    photons than `minimum` have no Z (that of pixels of 1e-6 photons is not normal in any number of
    them that there is); the sum of their differences is reported.
    """
    check_shapes(true, other)
    numbers = numbers_of(true, other, settings)
    shells, shell = _shells(true.resolution(numbers[0]), settings.n_shells)
    sums, counts, bright = Sums.zero(len(shells)), np.zeros(BINS + 2, int), np.zeros(BINS + 2, int)
    rows, kept = [], {"worth": -1.0, "image": numbers[0], "maps": []}
    for number in numbers:
        pairs = list(zip(true.photons(number), other.photons(number)))
        scores = [_scores(a, b, settings, gain) for (a, b), gain in zip(pairs, other.gains)]
        mine = Sums.zero(len(shells))
        for (a, b), z, s in zip(pairs, scores, shell):
            for block in blocks(len(a)):
                good = np.isfinite(a[block]) & np.isfinite(b[block])
                mine.add(*(values[block][good] for values in (s, a, b, z)))
            counts += _histogram(z)
            bright += _histogram(z[a >= MANY])
        sums.values += mine.values
        rows.append({"image": number, **mine.total().figures()[0], **_largest(pairs)})
        worth = rows[-1]["chi2"] if np.isfinite(rows[-1]["chi2"]) else rows[-1]["rms"]
        wanted = worth > kept["worth"] if settings.map_of is None else number == settings.map_of
        if wanted:
            maps = [
                _reduced(z if np.isfinite(z).any() else b - a) for (a, b), z in zip(pairs, scores)
            ]
            kept = {"worth": worth, "image": number, "maps": maps}
        tick()
    if not sums.values[0].sum():
        raise Sorry(f"{true.name} and {other.name} have no pixel that is good in both")
    histograms = {
        "z_histogram": _binned(counts),
        "z_histogram_bright": {"photons_from": MANY, **_binned(bright)},
    }
    return _report(settings, sums, shells, rows, histograms), kept


def _shells(resolution: list[np.ndarray], n: int) -> tuple[Shells, list[np.ndarray]]:
    """The shells, and that of each pixel; what is exactly in the direct beam is of the first."""
    finite = [d[np.isfinite(d)] for d in resolution]
    ends = np.array([[d.min(), d.max()] for d in finite if len(d)]).ravel()
    shells = Shells.of(ends, n, PIXELS)
    return shells, [shells.number(d).clip(0).astype(np.int16) for d in resolution]


def _report(
    settings: Settings, sums: Sums, shells: Shells, rows: list[dict], histograms: dict
) -> dict:
    """The figures of all images."""
    limits = [{"d_max": high, "d_min": low} for high, low in shells.limits()]
    worst = max(rows, key=lambda row: row["largest_difference"] or 0)
    return {
        "truth_is_expected": settings.expected,
        "minimum_photons": settings.minimum,
        **sums.total().figures()[0],
        **{name: worst[name] for name in ("largest_difference", "largest_at")},
        "largest_in_image": worst["image"],
        **histograms,
        "shells": [{**limit, **row} for limit, row in zip(limits, sums.figures())],
        "images": rows,
    }


def _scores(a: np.ndarray, b: np.ndarray, settings: Settings, gain: float) -> np.ndarray:
    """Z of each pixel, NaN of dim and masked ones."""
    variance = a if settings.expected else a + b
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (b - a) / np.sqrt(variance + (settings.noise / gain) ** 2)
        return np.where(variance >= max(settings.minimum, 1e-300), z, np.nan)


def _histogram(z: np.ndarray) -> np.ndarray:
    """Counts of Z, what lies below and above at the ends."""
    at = np.floor((z[np.isfinite(z)] + REACH) * (BINS / (2 * REACH))).clip(-1, BINS)
    return np.bincount(at.astype(np.int64) + 1, minlength=BINS + 2)


def _binned(counts: np.ndarray) -> dict:
    """A histogram as it is reported."""
    return {
        "edges": np.linspace(-REACH, REACH, BINS + 1),
        "counts": counts[1:-1],
        "below": int(counts[0]),
        "above": int(counts[-1]),
    }


def _largest(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict:
    """The largest |difference| of an image and its place: panel, slow, fast."""
    best: dict = {"largest_difference": None, "largest_at": None}
    for panel, (a, b) in enumerate(pairs):
        size = np.nan_to_num(np.abs(b - a), nan=-1.0)
        slow, fast = np.unravel_index(np.argmax(size), size.shape)
        largest = float(size[slow, fast])
        if largest >= 0 and largest > (best["largest_difference"] or -1):
            best = {"largest_difference": largest, "largest_at": [panel, int(slow), int(fast)]}
    return best


def _reduced(values: np.ndarray) -> np.ndarray:
    """For display: of every block of pixels the value of the largest size, sign and all."""
    factor = -(-max(values.shape) // SHOWN)
    n_slow, n_fast = values.shape
    pad = ((0, -n_slow % factor), (0, -n_fast % factor))
    padded = np.pad(values, pad, constant_values=np.nan)
    blocks = padded.reshape(padded.shape[0] // factor, factor, -1, factor).swapaxes(1, 2)
    blocks = blocks.reshape(*blocks.shape[:2], factor * factor)
    at = np.argmax(np.nan_to_num(np.abs(blocks), nan=-1.0), axis=2)
    return np.take_along_axis(blocks, at[..., None], axis=2)[..., 0]
