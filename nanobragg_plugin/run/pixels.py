"""Pixel values as colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from libtbx.utils import Sorry

#: Of pixels that are masked or untrusted, and of overloads: on paper, on dark maps.
MASKED = {True: "#c9d8e6", False: "#2f4358"}
OVERLOAD = "#e8590c"


@dataclass(frozen=True)
class Image:
    """values: pixel values [slow, fast] of each panel; bad, overloads: bool, the same, of pixels
    that are masked or untrusted, and of those above the trusted range."""

    values: Sequence[np.ndarray]
    bad: Sequence[np.ndarray] | None = None
    overloads: Sequence[np.ndarray] | None = None
    title: str = ""

    def of_panel(self, number: int, part: tuple[int, int, int, int]) -> Image:
        """What is shown of a panel, alone; part: half-open ranges (fast, fast, slow, slow)."""
        left, right, top, bottom = part

        def cut(arrays: Sequence[np.ndarray] | None) -> list[np.ndarray] | None:
            return None if arrays is None else [np.asarray(arrays[number])[top:bottom, left:right]]

        return replace(
            self, values=cut(self.values), bad=cut(self.bad), overloads=cut(self.overloads)
        )


@dataclass(frozen=True)
class Scale:
    """How pixel values become colours."""

    contrast: str = "log"
    vmin: float | None = None
    vmax: float | None = None
    percentiles: tuple[float, float] = (50.0, 99.9)
    colours: str = "gray_r"

    @property
    def paper(self) -> bool:
        """Whether the map is dark on white."""
        return self.colours.endswith("_r")

    def colour_map(self) -> Any:
        from matplotlib import colormaps

        return colormaps[self.colours]

    def norm(self) -> Any:
        """matplotlib's, of a scale whose ends are known."""
        from matplotlib.colors import LogNorm, Normalize, PowerNorm

        ends = {"vmin": self.vmin, "vmax": self.vmax, "clip": True}
        if self.contrast == "sqrt":
            return PowerNorm(0.5, **ends)
        return LogNorm(**ends) if self.contrast == "log" else Normalize(**ends)

    def fitted(self, image: Image, factor: int = 1) -> Scale:
        """With both ends, those not given by the percentiles of what is shown and positive;
        `Sorry` for ends that are none."""
        dots = np.concatenate([one.ravel() for one in _dots(image, factor)])
        some = dots[np.isfinite(dots) & (dots > 0)]
        low, middle, high = (0.5, 1, 2)
        if len(some):
            low, middle, high = np.percentile(some, (self.percentiles[0], 50, self.percentiles[1]))
        high = max(high, 10 * middle)
        vmin = float(low) if self.vmin is None else self.vmin
        vmax = float(high) if self.vmax is None else self.vmax
        if self.vmin is None and vmin >= vmax:
            vmin = vmax / 100 if vmax > 0 else vmax - 1
        if self.vmax is None and vmax <= vmin:
            vmax = vmin * 100 if vmin > 0 else vmin + 1
        if not (np.isfinite(vmin) and np.isfinite(vmax) and vmin < vmax):
            raise Sorry(f"vmin={vmin:g} is not less than vmax={vmax:g}: choose others")
        if self.contrast == "log" and vmin <= 0:
            raise Sorry(
                f"vmin={vmin:g}: contrast=log needs values above 0; choose one, or contrast=linear"
            )
        return replace(self, vmin=vmin, vmax=vmax)


def coloured(image: Image, scale: Scale, factor: int = 1) -> list[np.ndarray]:
    """[slow, fast, 4] of 0 to 1 of each panel, factor x factor pixels a dot: the largest value of
    those that are not bad, an overload if one is, bad if all are."""
    norm, colour_map = scale.norm(), scale.colour_map()
    shown = []
    for number, values in enumerate(_dots(image, factor)):
        bad = np.isneginf(values)
        colours = colour_map(np.asarray(norm(np.maximum(values, scale.vmin))))
        colours[bad] = _rgba(MASKED[scale.paper])
        if image.overloads is not None:
            colours[largest(image.overloads[number], factor, False)] = _rgba(OVERLOAD)
        shown.append(colours)
    return shown


def _dots(image: Image, factor: int) -> Iterator[np.ndarray]:
    """The values [slow, fast] of each panel's dots, -inf where all pixels are bad."""
    for number, values in enumerate(image.values):
        bad = np.isnan(values)
        if image.bad is not None:
            bad |= image.bad[number]
        yield largest(np.where(bad, -np.inf, values), factor, -np.inf)


def _rgba(colour: str) -> tuple[float, ...]:
    from matplotlib.colors import to_rgba

    return to_rgba(colour)


def largest(image: np.ndarray, factor: int, outside: Any) -> np.ndarray:
    """The largest value of every factor x factor pixels: spots smaller than a dot still show.
    outside: the value of pixels that the last blocks lack."""
    if factor == 1:
        return image
    n_slow, n_fast = image.shape
    edges = ((0, -n_slow % factor), (0, -n_fast % factor))
    padded = np.pad(image, edges, constant_values=outside)
    return padded.reshape(padded.shape[0] // factor, factor, -1, factor).max(axis=(1, 3))
