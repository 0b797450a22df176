"""Pictures of a refinement, as PNG."""

from __future__ import annotations

from collections.abc import Sequence

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
        for one, words in zip(row, (title, "expected", "residual")):
            one.set_visible(True)
            one.set_facecolor("0.75")
            one.set_title(words, fontsize=7, pad=2)
    if crops:
        figure.colorbar(drawn, ax=axes[:, -1], shrink=0.5, label="sigma", aspect=30)
    return png(figure)
