"""Pictures of a comparison, as PNG."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from nanobragg_plugin.compare.shells import rms

COLOURS = ("tab:blue", "tab:orange", "tab:red", "tab:green")


def figure_of(width: float = 7.0, height: float = 3.6) -> Any:
    """An empty figure, inches, which no display is asked for."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Any) -> bytes:
    """The figure as PNG."""
    stream = io.BytesIO()
    # without the date and version that matplotlib adds, the same figures make the same bytes
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def residual_map(maps: list[np.ndarray]) -> bytes:
    """Residuals of an image, an array a panel, of several the panels row by row."""
    columns = math.ceil(math.sqrt(len(maps)))
    rows = math.ceil(len(maps) / columns)
    figure = figure_of(7.0, max(2.5, 6.2 * rows / columns))
    finite = np.concatenate([m[np.isfinite(m)] for m in maps])
    limit = float(np.percentile(np.abs(finite), 99.5)) if len(finite) else 1.0
    for number, one in enumerate(maps):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.set_facecolor("0.75")
        drawn = axes.imshow(
            one, cmap="RdBu_r", vmin=-limit or -1, vmax=limit or 1, interpolation="nearest"
        )
        axes.set_xticks([])
        axes.set_yticks([])
        if len(maps) > 1:
            axes.set_title(f"panel {number}", fontsize=7, pad=2)
    figure.colorbar(drawn, ax=figure.axes, shrink=0.8, label="other - true, sigma")
    return png(figure)


def histogram(edges: np.ndarray, counts: dict[str, np.ndarray], label: str) -> bytes:
    """Distributions, name -> counts [bins], each beside the unit normal one, logarithmic."""
    figure = figure_of()
    axes = figure.add_subplot()
    middle, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    for colour, (name, found) in zip(COLOURS, counts.items()):
        axes.stairs(found, edges, fill=True, color=colour, alpha=0.5, label=name)
        normal = np.sum(found) * width * np.exp(-(middle**2) / 2) / math.sqrt(2 * math.pi)
        axes.plot(middle, normal, color=colour, lw=1.5)
    axes.plot([], [], color="black", label="lines: unit normal")
    axes.set_yscale("log")
    axes.set_ylim(0.5, max(2.0, *(3.0 * np.max(c, initial=1) for c in counts.values())))
    axes.set_xlabel(label)
    axes.set_ylabel("number")
    axes.legend(frameon=False, fontsize=8)
    return png(figure)


def by_shell(
    shells: list[dict], series: dict[str, list[float]], label: str, stacked: bool = False
) -> bytes:
    """Figures by resolution; series: name -> a value a shell."""
    figure = figure_of()
    axes = figure.add_subplot()
    at = np.arange(len(shells))
    low = np.zeros(len(shells))
    for colour, (name, values) in zip(COLOURS, series.items()):
        values = np.array(values, float)
        if stacked:
            axes.bar(at, values, 0.8, low, color=colour, label=name)
            low += np.nan_to_num(values)
        else:
            axes.plot(at, values, "o-", color=colour, label=name)
    # every other one where there are many
    step = -(-len(shells) // 12)
    axes.set_xticks(at[::step], [f"{shell['d_min']:.2f}" for shell in shells[::step]])
    axes.set_xlabel("resolution, Å (the shell's end)")
    axes.set_ylabel(label)
    axes.set_axisbelow(True)
    axes.grid(axis="y", lw=0.3)
    axes.legend(frameon=False)
    return png(figure)


def by_image(images: list[int], series: dict[str, list[float]], label: str) -> bytes:
    """Figures by image number."""
    figure = figure_of()
    axes = figure.add_subplot()
    for colour, (name, values) in zip(COLOURS, series.items()):
        axes.plot(images, values, ".-", color=colour, label=name)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("image")
    axes.set_ylabel(label)
    axes.grid(lw=0.3)
    axes.legend(frameon=False)
    return png(figure)


def scatter(true: np.ndarray, found: np.ndarray, labels: tuple[str, str]) -> bytes:
    """Found against true intensities on logarithmic axes, symmetric about 0."""
    figure = figure_of(5.0, 4.6)
    axes = figure.add_subplot()
    step = -(-len(true) // 20000)
    scale = max(rms(true), 1e-300)
    axes.plot(true[::step], found[::step], ".", ms=2, color=COLOURS[0], alpha=0.4)
    ends = np.array([0, max(np.max(true, initial=0), scale)])
    axes.plot(ends, ends, color="black", lw=0.8)
    for axis in ("x", "y"):
        getattr(axes, f"set_{axis}scale")("symlog", linthresh=scale / 100)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    return png(figure)
