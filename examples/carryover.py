"""nanoBragg.c's phi carryover, seen: the same command line in both modes, and their difference.

    python examples/carryover.py [carryover.png]

At a phi of exactly 0 nanoBragg.c does not rotate the crystal: the step is simulated in the
orientation that the last step left behind. Of this image, five steps from 0 to 0.8 degrees, the
first step shows the crystal at 0.8 degrees a second time instead of at 0.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path

import numpy as np

from nanobragg_plugin.command_line import classic

COMMAND = """
    -cell 79.1 79.1 38.4 90 90 90 -misset 10 20 30 -N 8 -default_F 100 -lambda 0.9795
    -distance 100 -pixel 0.25 -detpixels 96 -Xbeam 40 -Ybeam 40 -nointerpolate -oversample 1
    -phi 0 -osc 1 -phisteps 5 -nonoise -nopgm
"""


def photons(mode: str) -> np.ndarray:
    """Expected photons [slow, fast] in a mode."""
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/float.bin", "-intfile", f"{folder}/int.img"]
        with contextlib.redirect_stdout(io.StringIO()):
            classic.run([*COMMAND.split(), "-phi_carryover_mode", mode, "-floatfile", *files])
        return np.fromfile(files[0], "<f4").reshape(96, 96)


def picture(path: Path, spec: np.ndarray, parity: np.ndarray) -> None:
    """A part of both images side by side with their difference."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm, SymLogNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, sharex=True, sharey=True)
    peak = parity.max()
    norm = LogNorm(peak * 1e-4, peak)
    for axes, image, title in ((left, spec, "spec"), (middle, parity, "c-parity, as nanoBragg.c")):
        axes.imshow(np.maximum(image, peak * 1e-4), norm=norm, cmap="magma_r")
        axes.set_title(title)
    share = (parity - spec) / peak
    limit = np.abs(share).max()
    scale = SymLogNorm(limit * 1e-2, vmin=-limit, vmax=limit)
    shown = right.imshow(share, norm=scale, cmap="RdBu_r")
    right.set_title("c-parity - spec")
    figure.colorbar(shown, ax=right, label="of the maximum")
    left.set(xlim=(24.5, 72.5), ylim=(95.5, 47.5))
    left.set_ylabel("slow, pixels")
    for axes in (left, middle, right):
        axes.set_xlabel("fast, pixels")
    figure.savefig(path)


def main(path: str = "carryover.png") -> None:
    spec, parity = photons("spec"), photons("c-parity")
    difference = np.abs(parity - spec).max() / parity.max()
    print(f"largest difference: {100 * difference:.1f} % of the maximum")
    picture(Path(path), spec, parity)


if __name__ == "__main__":
    main(*sys.argv[1:])
