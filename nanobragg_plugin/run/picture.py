"""The picture of an image: pixels, resolution rings, beam centre, spots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanobragg_plugin.run import marks, page, pixels
from nanobragg_plugin.run.outputs import whole

DPI = 100
#: Dots left, right, below and above the image.
MARGINS = (66, 104, 56, 40)
#: Dots that the legend adds below.
LEGEND = 26
#: Colours of lines and of what is behind their labels, on paper and on dark maps.
LINES = {True: ("#1c6fb5", "white"), False: ("#7fd0ff", "black")}
#: What lies between panels.
GROUND = {True: "#e9ecef", False: "#343a40"}
CENTRE = {True: "#d6336c", False: "#ff8fb3"}


@dataclass(frozen=True)
class Style:
    """scale: its ends may be open; rings: Angstrom, None: those that fit."""

    scale: pixels.Scale = pixels.Scale()
    rings: tuple[float, ...] | None = None
    beam_centre: bool = True
    size_px: int = 1100
    frame: bool = True


@dataclass(frozen=True)
class Layout:
    """Of an image of width x height dots: factor pixels a dot, or dots a pixel."""

    width: int
    height: int
    factor: int
    dots: int

    @classmethod
    def of(cls, shown: page.Page, size: int) -> Layout:
        """Of at most `size` dots along an edge. A panel's pixels are a whole number of dots wide,
        or the other way round."""
        left, right, bottom, top = shown.limits()
        across, up = abs(right - left), abs(top - bottom) * shown.aspect()
        edge = shown.pixel_edge()
        dots = edge * size / max(across, up)  # of a pixel
        factor = 1 if dots >= 1 else int(np.ceil(1 / dots - 1e-9))
        whole_dots = max(1, int(dots + 1e-9))
        width, height = (n / edge * whole_dots / factor for n in (across, up))
        return cls(*(max(1, int(np.ceil(n - 1e-6))) for n in (width, height)), factor, whole_dots)


def write_picture(path: str | Path, *drawn: Any) -> None:
    """Write a PNG; what is drawn: the arguments of `figure_of`."""
    figure = figure_of(*drawn)
    with whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def figure_of(
    image: pixels.Image, shown: page.Page, style: Style, spots: tuple[marks.Spots, ...] = ()
) -> Any:
    """A matplotlib figure; image: of all the detector's panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layout = Layout.of(shown, style.size_px)
    image = cut(image, shown)
    scale = style.scale.fitted(image, layout.factor)
    spots = tuple(one for one in (s.shown(shown) for s in spots) if len(one.pixels))
    legend = _legend(image, scale, spots) if style.frame else []
    left, right, below, above = MARGINS if style.frame else (0, 0, 0, 0)
    below += LEGEND if legend else 0
    size = np.array([layout.width + left + right, layout.height + below + above])
    figure = Figure(figsize=size / DPI, dpi=DPI)
    FigureCanvasAgg(figure)
    box = np.array([left, below, layout.width, layout.height]) / np.tile(size, 2)
    axes = figure.add_axes(box, facecolor=GROUND[scale.paper])
    _draw_pixels(axes, pixels.coloured(image, scale, layout.factor), shown, layout.factor)
    draw_rings(axes, shown, style.rings, scale.paper)
    if style.beam_centre:
        _draw_beam_centre(axes, shown, scale.paper)
    for one in spots:
        marks.draw(axes, one, shown, scale.paper, layout.dots / layout.factor)
    if style.frame:
        _draw_frame(axes, shown, image.title, size)
        _draw_colour_bar(figure, scale, box, size)
        if legend:
            where = (left / size[0], 4 / size[1])
            figure.legend(
                handles=legend, loc="lower left", bbox_to_anchor=where, ncol=5, frameon=False,
                fontsize=8.5, borderaxespad=0, borderpad=0, handletextpad=0.3, columnspacing=1.4,
            )  # fmt: skip
    else:
        axes.set_axis_off()
    return figure


def cut(image: pixels.Image, shown: page.Page) -> pixels.Image:
    """The panels, or the part of one, that are shown."""
    if shown.single:
        return image.of_panel(shown.panels[0], shown.part(shown.panels[0]))
    return image


def _draw_pixels(axes: Any, colours: list[np.ndarray], shown: page.Page, factor: int) -> None:
    """Each panel's dots [slow, fast, 4] at their place, and the page's limits."""
    from matplotlib.transforms import Affine2D

    for number, dots in zip(shown.panels, colours):
        fast, slow, corner = shown.axes_of(number)
        left, _, top, _ = shown.part(number)
        right, bottom = left + dots.shape[1] * factor, top + dots.shape[0] * factor
        place = Affine2D.from_values(*fast, *slow, *corner)
        axes.imshow(
            dots,
            interpolation="nearest",
            extent=(left, right, bottom, top),
            transform=place + axes.transData,
        )
    left, right, low, high = (left, right, bottom, top) if shown.single else shown.limits()
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    axes.set_aspect("auto")  # the box has the right shape


def draw_rings(axes: Any, shown: page.Page, rings: Any, paper: bool = True) -> None:
    """Lines of equal resolution on every panel, each labelled once; rings: Angstrom."""
    line, behind = LINES[paper]
    for d in page.fitting_rings(shown) if rings is None else rings:
        places = []
        for number in shown.panels:
            points = page.ring(shown.detector[number], shown.beam, d)
            if len(points) and np.isfinite(points).any():
                places.append(shown.place(number, points))
                (drawn,) = axes.plot(*places[-1].T, color=line, lw=0.8, alpha=0.75)
                if not shown.single:
                    drawn.set_clip_path(_outline(axes, shown, number))
        label = _innermost(np.concatenate(places), axes) if places else None
        if label is not None:
            axes.annotate(
                f"{d:g} Å",
                label,
                color=line,
                fontsize=8,
                ha="center",
                va="center",
                bbox={"facecolor": behind, "edgecolor": "none", "alpha": 0.75, "pad": 1.2},
            )


def _outline(axes: Any, shown: page.Page, number: int) -> Any:
    """A panel's edges, to clip what is drawn on it."""
    from matplotlib.patches import Polygon

    return Polygon(shown.corners(number), transform=axes.transData)


def _innermost(points: np.ndarray, axes: Any) -> np.ndarray | None:
    """Of points [n, 2] of a ring that which is farthest from the page's edges, or None."""
    (left, right), (low, high) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
    across, up = ((points - (left, low)) / (right - left, high - low)).T
    room = np.nan_to_num(np.min([across, 1 - across, up, 1 - up], axis=0), nan=-1)
    best = np.argmax(np.round(room, 4))
    return points[best] if room[best] > 0.015 else None


def _draw_beam_centre(axes: Any, shown: page.Page, paper: bool) -> None:
    """A cross where the direct beam goes, if that is on the page."""
    centre = shown.beam_centre()
    if centre is not None:
        axes.plot(*centre, "+", color=CENTRE[paper], ms=13, mew=1.4, scalex=False, scaley=False)


def _draw_frame(axes: Any, shown: page.Page, title: str, size: np.ndarray) -> None:
    """Ticks and their meaning, the title."""
    axes.set_xlabel("fast, pixels" if shown.single else "mm", fontsize=9)
    axes.set_ylabel("slow, pixels" if shown.single else "mm", fontsize=9)
    axes.tick_params(labelsize=8.5, color="#555555")
    for spine in axes.spines.values():
        spine.set(linewidth=0.8, color="#555555")
    top = axes.get_position().y1
    x = axes.get_position().x0
    axes.figure.text(x, top + 11 / size[1], title, fontsize=10.5, va="bottom", parse_math=False)


def _draw_colour_bar(figure: Any, scale: pixels.Scale, box: np.ndarray, size: np.ndarray) -> None:
    """The pixel values of the colours."""
    from matplotlib.cm import ScalarMappable

    left, below, width, height = box
    place = [left + width + 16 / size[0], below, 15 / size[0], height]
    bar = figure.colorbar(
        ScalarMappable(scale.norm(), scale.colour_map()), cax=figure.add_axes(place)
    )
    bar.set_label("pixel value", fontsize=9)
    bar.ax.tick_params(labelsize=8.5, color="#555555", which="both")
    bar.outline.set(linewidth=0.8, color="#555555")
    if scale.contrast == "log" and scale.vmax / scale.vmin < 100:
        from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        bar.ax.yaxis.set_major_formatter(ScalarFormatter())
        bar.ax.yaxis.set_minor_formatter(NullFormatter())


def _legend(image: pixels.Image, scale: pixels.Scale, spots: tuple[marks.Spots, ...]) -> list[Any]:
    """What the marks and the colours outside the scale mean, of those that are in the picture."""
    from matplotlib.patches import Patch

    entries = [marks.key(one, scale.paper) for one in spots]
    if image.overloads is not None and any(np.any(one) for one in image.overloads):
        entries.append(Patch(color=pixels.OVERLOAD, label="overload"))
    if image.bad is not None and any(np.any(one) for one in image.bad):
        entries.append(Patch(color=pixels.MASKED[scale.paper], label="masked or untrusted"))
    return entries
