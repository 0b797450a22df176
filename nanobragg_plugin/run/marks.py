"""Marks of spots in a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nanobragg_plugin.run.page import Page

#: matplotlib's marker, its least size in points and its colour on paper and on dark maps, of each
#: kind.
KINDS = {
    "found": ("o", 7.5, {True: "#e8590c", False: "#ffb26b"}),
    "predicted": ("s", 9.5, {True: "#0b8a5f", False: "#63e6be"}),
}
#: Size of a mark, pixels, where those are large.
AROUND = 7.0


@dataclass(frozen=True)
class Spots:
    """kind: of KINDS; panel [n]; pixels [n, 2]: (fast, slow) on it; hkl [n, 3], (0, 0, 0) where it
    is not known; labelled: bool [n], which to write; None: none."""

    kind: str
    panel: np.ndarray
    pixels: np.ndarray
    hkl: np.ndarray
    labelled: np.ndarray | None = None

    def shown(self, page: Page) -> Spots:
        """Those that are on the page."""
        inside = np.zeros(len(self.panel), bool)
        for number in page.panels:
            left, right, top, bottom = page.part(number)
            (fast, slow), on = self.pixels.reshape(-1, 2).T, self.panel == number
            inside |= on & (left <= fast) & (fast <= right) & (top <= slow) & (slow <= bottom)
        return self.only(inside)

    def only(self, which: np.ndarray) -> Spots:
        """Those for which bool [n] is True."""
        return replace(
            self,
            panel=self.panel[which],
            pixels=self.pixels[which],
            hkl=self.hkl[which],
            labelled=None if self.labelled is None else self.labelled[which],
        )


def places(spots: Spots, page: Page) -> np.ndarray:
    """[n, 2] on the page."""
    result = np.empty((len(spots.panel), 2))
    for number in np.unique(spots.panel):
        on = spots.panel == number
        result[on] = page.place(int(number), spots.pixels[on])
    return result


def draw(axes: Any, spots: Spots, page: Page, paper: bool, dots: float = 1.0) -> None:
    """A mark around each spot, and its indices beside it; dots: edge of a pixel in the picture."""
    marker, least, colours = KINDS[spots.kind]
    size = least * max(1.0, AROUND * dots * 72 / axes.figure.dpi / KINDS["found"][1])
    where = places(spots, page)
    axes.plot(
        *where.T, marker, ms=size, mfc="none", mec=colours[paper], mew=1.0, alpha=0.9,
        scalex=False, scaley=False, label=spots.kind,
    )  # fmt: skip
    if spots.labelled is not None:
        which = spots.labelled
        _label(axes, where[which], spots.hkl[which], colours[paper], size / 2)


def _label(axes: Any, where: np.ndarray, hkl: np.ndarray, colour: str, room: float) -> None:
    """Indices beside the marks, `room` points from their middles, but for those that would cover
    others."""
    renderer, taken = axes.figure.canvas.get_renderer(), []
    page = axes.get_window_extent(renderer)
    for place, index in zip(where, hkl):
        right, above = room + 2, room - 4
        for offset, side in (
            ((right, above), "left"), ((-right, above), "right"), ((right, -room - 2), "left"),
        ):  # fmt: skip
            text = _text(axes, index, place, offset, side, colour, 6.5 if room < 8 else 8.5)
            box = text.get_window_extent(renderer)
            within = page.x0 <= box.x0 and box.x1 <= page.x1
            if within and page.y0 <= box.y0 and box.y1 <= page.y1:
                if not any(box.overlaps(other) for other in taken):
                    taken.append(box)
                    break
            text.remove()


def _text(
    axes: Any, index: Any, place: Any, offset: Any, side: str, colour: str, size: float
) -> Any:
    """One label, with a halo."""
    from matplotlib.patheffects import withStroke

    ground = "white" if sum(axes.get_facecolor()[:3]) > 1.5 else "black"  # as paper is
    return axes.annotate(
        " ".join(str(i).replace("-", "\N{MINUS SIGN}") for i in index),
        place, offset, textcoords="offset points", ha=side, fontsize=size, color=colour,
        path_effects=[withStroke(linewidth=2.0, foreground=ground, alpha=0.8)],
    )  # fmt: skip


def key(spots: Spots, paper: bool) -> Any:
    """The legend's entry."""
    from matplotlib.lines import Line2D

    marker, size, colours = KINDS[spots.kind]
    label = f"{spots.kind} ({len(spots.panel)})"
    return Line2D(
        [], [], ls="", marker=marker, ms=min(size, 8), mfc="none", mec=colours[paper], label=label
    )
