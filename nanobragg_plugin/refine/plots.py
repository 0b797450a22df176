"""Pictures of a refinement, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nanobragg_plugin.compare.plots import figure_of, png


def convergence(stages: Sequence[tuple[str, Sequence[float]]], pixels: int) -> bytes:
    """Loss a pixel after each step that was taken, of each stage."""
    figure = figure_of(7.0, 3.6)
    axes = figure.add_subplot()
    first = 0
    for name, losses in stages:
        steps = np.arange(first, first + len(losses))
        axes.plot(steps, np.array(losses) / pixels, "o-", markersize=3, label=name)
        first += len(losses)
    axes.set_yscale("log")
    axes.set_xlabel("steps")
    axes.set_ylabel("loss / pixels")
    axes.grid(alpha=0.3, zorder=0)
    axes.legend(fontsize=7)
    return png(figure)


#: What is drawn along a scan: a title, and of which names.
ALONG = (
    ("turn from the start / degrees", ("rotation_x", "rotation_y", "rotation_z")),
    ("change of the cell / %", ("a", "b", "c")),
    ("change of the cell / degrees", ("alpha", "beta", "gamma")),
    ("scale of the image", ("scale",)),
    ("B of the image / Å²", ("B",)),
)
#: Experiments that are drawn.
MOST_SCANS = 4


def along_scans(found: Sequence[dict[str, Any]]) -> bytes:
    """Of `along_scan.along_scans`: curves and images with their sigmas, a column an experiment, the
    first of them."""
    found = found[:MOST_SCANS]
    of = [{**one["curves"], **one["images"]} for one in found]
    rows = [(title, names) for title, names in ALONG if any(set(names) & set(o) for o in of)]
    figure = figure_of(6.2 * len(found), 2.2 * len(rows) + 0.4)
    axes = figure.subplots(len(rows), len(found), squeeze=False, sharex="col")
    for column, (one, known) in enumerate(zip(found, of)):
        axes[0, column].set_title(f"experiment {one['experiment']}", fontsize=9)
        axes[-1, column].set_xlabel("image")
        for row, (title, names) in enumerate(rows):
            for number, name in enumerate(names):
                if name in known:
                    _along(axes[row, column], name, known[name], f"C{number}", title)
            axes[row, column].set_ylabel(title, fontsize=8)
            axes[row, column].grid(alpha=0.3, zorder=0)
            if axes[row, column].lines:
                axes[row, column].legend(fontsize=7)
    return png(figure)


def _along(axes: Any, name: str, one: dict[str, Any], color: str, title: str) -> None:
    """One of the curves, with a band of a sigma, or of images, with bars."""
    image, value = np.array(one["image"]), np.array(one["value"])
    sigma = np.array([np.nan if s is None else s for s in one["sigma"]])
    if title.startswith("change"):  # less than a thousandth of it is not seen otherwise
        size = 100 / value[0] if "%" in title else 1.0
        unit = "Å" if one["unit"] == "A" else "degrees"
        value, sigma = size * (value - value[0]), size * sigma
        name = f"{name}, {one['value'][0]:.4f} {unit} at the first"
    if name in ("scale", "B"):
        axes.errorbar(image, value, sigma, fmt="o", markersize=3, color=color, label=name)
        return
    axes.plot(image, value, "-", color=color, label=name)
    axes.fill_between(image, value - sigma, value + sigma, color=color, alpha=0.25, linewidth=0)


def shoeboxes(crops: Sequence[tuple[str, np.ndarray]]) -> bytes:
    """Counts, expected photons and residuals (counts - expected, in sigma of counting), a row a
    shoebox: title, [2, slow, fast]."""
    columns = 2 if len(crops) > 4 else 1
    rows = -(-len(crops) // columns)
    figure = figure_of(5.2 * columns, 1.5 * rows + 0.3)
    axes = figure.subplots(rows, 3 * columns, squeeze=False)
    for one in axes.flat:
        one.set_xticks([])
        one.set_yticks([])
        one.set_visible(False)
    for number, (title, (counts, expected)) in enumerate(crops):
        row = axes[number % rows, 3 * (number // rows) : 3 * (number // rows) + 3]
        top = np.sqrt(
            max(float(np.nanmax(counts, initial=1)), float(np.nanmax(expected, initial=1)))
        )
        for one, image in zip(row, (counts, expected)):
            shown = np.sqrt(image.clip(min=0))
            one.imshow(shown, cmap="magma", vmin=0, vmax=top, interpolation="nearest")
        residual = (counts - expected) / np.sqrt(expected.clip(min=0.1))
        drawn = row[2].imshow(residual, cmap="RdBu_r", vmin=-5, vmax=5, interpolation="nearest")
        for one, words in zip(row, (f"{title}: to {top**2:.0f}", "expected", "residual")):
            one.set_visible(True)
            one.set_facecolor("0.75")
            one.set_title(words, fontsize=7, pad=2)
    if crops:
        figure.colorbar(drawn, ax=axes[:, -1], shrink=0.5, label="sigma", aspect=30)
    return png(figure)
