"""The pictures of the README's gallery, made by nanobragg.simulate and nanobragg.view.

    python examples/gallery.py [FOLDER]

They go to examples/images, or a folder. Everything is seeded: the same files come out each time.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx: torch keeps its threads

import h5py
import numpy as np
from demo import HERE, write_structure_factors

from nanobragg_plugin.command_line import simulate, view
from nanobragg_plugin.run import animation, picture, pixels

#: A crystal with lysozyme's cell in a beam of 50 micrometres.
SAMPLE = """
    geometry.beam.wavelength=0.9795 geometry.beam.direction=0,0,1
    geometry.beam.polarization_normal=0,1,0 geometry.beam.polarization_fraction=0.99
    geometry.crystal.unit_cell=79.1,79.1,38.4,90,90,90 geometry.crystal.space_group=P43212
    geometry.crystal.misset_deg=21,-34,48
    crystal.size_mm=0.05,0.05,0.05 beam.beamsize_mm=0.05 beam.exposure_s=0.1
    output.log=None output.overwrite=True
"""
ROTATION = "geometry.goniometer.axis=1,0,0 geometry.scan.oscillation=0,0.5"
#: Three modules of a PILATUS 300K, with the gaps between them.
MODULES = "".join(
    f"""geometry.detector.panel {{
  id = {i}
  name = module{i}
  pixel_size = 0.172 0.172
  image_size = 487 195
  trusted_range = -1 1000000
  thickness = 0.45
  material = Si
  fast_axis = 1 0 0
  slow_axis = 0 -1 0
  origin = -41.9 {53.2 - 36.464 * i:.3f} -110
  parallax_correction = True
}}
"""
    for i in range(3)
)


def panel(n_fast: int, n_slow: int, pixel: float, distance: float, x: float, y: float) -> str:
    """A plane detector without sensor; x, y: mm, from the beam to its upper left corner."""
    return (
        f"geometry.detector.panel.image_size={n_fast},{n_slow} "
        f"geometry.detector.panel.pixel_size={pixel},{pixel} "
        "geometry.detector.panel.trusted_range=-1000,65000 "
        "geometry.detector.panel.slow_axis=0,-1,0 "
        f"geometry.detector.panel.origin={x},{y},{-distance}"
    )


#: A part of a detector with few spots, and what is simulated on it without noise.
CLOSE = panel(120, 120, 0.08, 100, 6, 14)
FINE = panel(80, 80, 0.02, 100, -4.04, 5.56)
EXPECTED = "beam.flux=1e12 noise.poisson=False sampling.oversample=3"


@dataclass(frozen=True)
class Row:
    """Pictures side by side that differ in a parameter: what all have, and {title: what each has},
    and how values become colours, the same in all; of some otherwise."""

    common: str
    each: dict[str, str]
    scale: pixels.Scale = pixels.Scale()
    otherwise: dict[str, pixels.Scale] = field(default_factory=dict)


MOSAIC = f"{CLOSE} {EXPECTED} {ROTATION} geometry.scan.image_range=1,1 sampling.phisteps=12"
PHOTONS = f"{CLOSE} beam.flux=2e11 background.level=6 {ROTATION} geometry.scan.image_range=1,1"
CCD = "detector.point_spread.shape=fiber detector.point_spread.fwhm_mm=0.12"
READ = "detector.quantum_gain=1.8 detector.adc_offset_adu=40 noise.readout_noise_adu=3"

ROWS = {
    "shapes": Row(
        f"{FINE} {EXPECTED} crystal.Ncells_abc=14,14,28",
        {
            f"xtal_shape={name}": f"crystal.xtal_shape={name}"
            for name in ("square", "round", "gauss", "tophat")
        },
        pixels.Scale(vmin=0.5, vmax=1e4, colours="inferno"),
    ),
    "mosaic": Row(
        f"{MOSAIC} crystal.Ncells_abc=40,40,80",
        {
            "spread_deg=0": "",
            **{
                f"spread_deg={x}": f"crystal.mosaic.spread_deg={x} crystal.mosaic.domains=60"
                for x in (0.1, 0.3, 0.8)
            },
        },
    ),
    "beam": Row(
        f"{CLOSE} {EXPECTED} crystal.Ncells_abc=40,40,80 crystal.mosaic.spread_deg=0.15 "
        "crystal.mosaic.domains=24",
        {
            "parallel, one wavelength": "",
            "vertical divergence 6 mrad": "beam.vdivrange_mrad=6 beam.vdivsteps=25",
            "bandwidth 3 %": "beam.dispersion_percent=3 beam.dispsteps=40",
        },
    ),
    "chain": Row(
        f"{PHOTONS} crystal.Ncells_abc=20,20,40 crystal.mosaic.spread_deg=0.3 "
        "crystal.mosaic.domains=30",
        {
            "expected photons": "noise.poisson=False",
            "counted": "",
            "point spread of a taper": CCD,
            "gain, offset, read-out": f"{CCD} {READ}",
        },
        pixels.Scale(vmin=3, vmax=600),
        {"gain, offset, read-out": pixels.Scale(vmin=44, vmax=1100)},
    ),
}  # fmt: skip

#: Simulated on the modules: parameters of nanobragg.simulate, of nanobragg.view, the picture.
SWEEP = (
    f"{ROTATION} geometry.scan.image_range=1,16 crystal.Ncells_abc=12,12,24 beam.flux=1e11 "
    "crystal.mosaic.spread_deg=0.1 crystal.mosaic.domains=6 sampling.oversample=1 "
    "background.water.thickness_mm=0.04"
)
ICE = (
    f"{ROTATION} geometry.scan.image_range=1,1 crystal.Ncells_abc=12,12,24 beam.flux=2e13 "
    "sampling.oversample=1 background.water.thickness_mm=0.2 background.ice.thickness_mm=0.01 "
    "background.ice.fwhm_inv_ang=0.006 background.air.thickness_mm=60 background.air.centre_mm=0 "
    "background.beam_stop.radius_mm=1.2 background.beam_stop.distance_mm=30"
)
VIEWS = {
    "sweep": "image=3",
    "spots": "image=3 spots.predict=True spots.hkl=True panel=0 zoom=200,359,20,139 size_px=800",
    "slice": "image=1 sum_images=8 colours=magma_r percentiles=60,99.7",
}
ICE_VIEW = "colours=inferno contrast=linear vmin=4000 vmax=36000"


def main(folder: str | Path = HERE / "images", quick: bool = False) -> list[Path]:
    """Make the pictures, quick: coarse ones for a test; their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        write_structure_factors(str(work / "F.mtz"))
        (work / "modules.phil").write_text(MODULES)
        paths = [_row(work, name, row, folder, quick) for name, row in ROWS.items()]
        return paths + _of_modules(work, folder, quick)


def _simulated(work: Path, name: str, parameters: str) -> Path:
    """The images of nanobragg.simulate."""
    given = [*SAMPLE.split(), *parameters.split()]
    with contextlib.redirect_stdout(io.StringIO()):
        simulate.run([str(work / "F.mtz"), *given, f"output.prefix={work / name}"])
    return work / f"{name}.nxs"


def _row(work: Path, name: str, row: Row, folder: Path, quick: bool) -> Path:
    """Simulate and draw pictures side by side, all on one scale."""
    images = []
    coarse = " sampling.oversample=1" * quick
    for parameters in row.each.values():
        path = _simulated(work, name, f"{row.common} {parameters}{coarse}")
        with h5py.File(path) as handle:
            images.append(pixels.Image([handle["/entry/data/data"][0].astype(float)]))
    bright = max(images, key=lambda one: one.values[0].max())
    scales = [row.otherwise.get(title, row.scale).fitted(bright) for title in row.each]
    path = folder / f"{name}.png"
    drawn = [pixels.coloured(one, scale)[0] for one, scale in zip(images, scales)]
    _draw_row(drawn, list(row.each), path, row.scale)
    return path


def _draw_row(drawn: list[np.ndarray], titles: list[str], path: Path, scale: pixels.Scale) -> None:
    """Arrays [slow, fast, 4] side by side, each pixel a square of whole dots."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_slow, n_fast, _ = drawn[0].shape
    dots, gap, above = 960 // (len(drawn) * n_fast), 10, 26
    width = len(drawn) * n_fast * dots + (len(drawn) - 1) * gap
    height = n_slow * dots + above
    figure = Figure(figsize=(width / picture.DPI, height / picture.DPI), dpi=picture.DPI)
    FigureCanvasAgg(figure)
    for number, (image, title) in enumerate(zip(drawn, titles)):
        left = number * (n_fast * dots + gap)
        box = (left / width, 0, n_fast * dots / width, n_slow * dots / height)
        axes = figure.add_axes(box, xticks=[], yticks=[])
        axes.imshow(image, interpolation="nearest", aspect="auto")
        axes.set_title(title, fontsize=9.5, pad=6)
    with io.BytesIO() as whole:
        figure.savefig(whole, format="png")
        _write_small(whole, path, scale)


def _of_modules(work: Path, folder: Path, quick: bool) -> list[Path]:
    """What nanobragg.view makes of the modules' images."""
    phil, paths = str(work / "modules.phil"), []
    coarse = " sampling.phisteps=1 sampling.thicksteps=1" * quick
    sweep = _simulated(work, "sweep", f"{phil} {SWEEP}{coarse}").with_suffix(".expt")
    ice = _simulated(work, "ice", f"{phil} {ICE}{coarse}").with_suffix(".expt")
    for name, parameters in {**VIEWS, "ice": ICE_VIEW}.items():
        made = work / f"{name}.png"
        _view(ice if name == "ice" else sweep, f"{parameters} output={made}")
        colours = [one[8:] for one in parameters.split() if one.startswith("colours=")]
        scale = pixels.Scale(colours=colours[0]) if colours else pixels.Scale()
        paths.append(_write_small(made, folder / made.name, scale))
    last = 3 if quick else 16
    paths.append(folder / "scan.gif")
    _view(
        sweep,
        f"panel=1 zoom=200,359,20,179 animation={paths[-1]} animation_range=1,{last} frame=False "
        "size_px=320 animation_frame_s=0.15 resolution_rings=None beam_centre=False",
    )
    return paths


def _view(images: Path, parameters: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        view.run([str(images), *parameters.split()])


def _write_small(source: Path | io.BytesIO, path: Path, scale: pixels.Scale) -> Path:
    """A PNG with a palette."""
    from PIL import Image

    with Image.open(source) as image:
        small = animation.with_palette(image, animation.palette(scale))
    small.save(path, optimize=True)
    return path


if __name__ == "__main__":
    for made in main(*sys.argv[1:]):
        print(f"{made.stat().st_size / 1000:6.0f} kB  {os.path.relpath(made)}")
