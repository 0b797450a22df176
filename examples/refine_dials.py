"""A weak sweep, several draws of its noise: dials.refine against nanobragg.refine.

python examples/refine_dials.py [FOLDER [DRAWS]]

Eight images of half a degree, whose strongest spots have one to two thousand photons. Of each draw
of the Poisson noise DIALS finds and indexes the spots, both refinements start from what dials.index
found, and dials.integrate takes what each of them wrote. All is compared with the truth: models,
and intensities by profile fitting with F squared.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import sys
import time
from pathlib import Path

from demo import HERE, write_structure_factors

from nanobragg_plugin.compare import truth  # isort: skip

import h5py
import numpy as np
from cctbx import uctbx
from dials.array_family import flex
from dxtbx.model import ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory
from iotbx import mtz
from scipy.spatial.transform import Rotation

#: A small detector of large pixels, and domains whose spots are as large.
DATA = (
    *(
        "geometry.detector.panel.pixel_size=0.43,0.43",
        "geometry.detector.panel.image_size=193,200",
    ),
    *("geometry.detector.panel.origin=-41.5,43.2,-180", "geometry.scan.image_range=1,8"),
    *("crystal.Ncells_abc=5,5,10", "crystal.mosaic.spread_deg=0.2", "crystal.mosaic.domains=120"),
    *("crystal.mosaic.seed=17", "crystal.size_mm=None", "crystal.spot_scale=1e8"),
    *("beam.flux=None", "beam.fluence=7e17", "sampling.oversample=2", "sampling.phisteps=4"),
    *("sampling.subpixels=moments", "sampling.thicksteps=1", "background.level=1"),
    *("compute.compile=never", "noise.poisson=False", "output.overwrite=True"),
)
#: What is known of the crystal: half as much again of its domains' size, twice its spread; its
#: domains are drawn by another seed than the data's, and are fewer.
START = (
    *("crystal.Ncells_abc=7.5,7.5,15", "crystal.mosaic.spread_deg=0.4"),
    *("crystal.mosaic.domains=40", "sampling.oversample=2", "refine.shoeboxes.border_px=1"),
)
#: In four degrees a turn of detector and crystal about the beam is not determined, nor one of both
#: and the beam about the vertical: the beam's direction is known.
FIXED = "detector.fix=orientation", "beam.fix=all"
#: What dials.refine refines, and what it does not know of.
REFINED = "refine.parameters=orientation+cell+detector_shift+distance+domains+mosaic+scale"
BOTH = {"refined": "dials.refine", "pixels": "nanobragg.refine"}
#: What is compared of dials.integrate, not of models.
REACHED = "integrated, of the truth's", "correlation with F^2"
#: Partiality from which on a reflection is taken to be whole.
WHOLE = 0.99


def run(package: str, name: str, *words: str) -> None:
    """A command of a package, in this process, which imports it once; what it prints goes to
    NAME.out."""
    start = time.time()
    with open(f"{name}.out", "w", encoding="utf-8") as out, contextlib.redirect_stdout(out):
        importlib.import_module(f"{package}.command_line.{name}").run(list(words))
    # each command adds its own to those of the ones before
    for log in ("dials", "dxtbx", "py.warnings"):
        logging.getLogger(log).handlers.clear()
    print(f"  {time.time() - start:6.1f} s  {name} {' '.join(words)}", flush=True)


def write_amplitudes(path: str) -> None:
    """The demonstration's, as far as the detectors reach."""
    write_structure_factors(path)
    array = mtz.object(path).as_miller_arrays()[0].resolution_filter(d_min=2.9)
    array.as_mtz_dataset(column_root_label="F").mtz_object().write(path)


def simulate() -> None:
    """data.expt and data.nxs, the photons expected; known.expt: the crystal a little off."""
    write_amplitudes("F.mtz")
    output = "output.prefix=data", "output.log=None"
    run("nanobragg_plugin", "simulate", str(HERE / "sweep.phil"), "F.mtz", *DATA, *output)
    (experiment,) = ExperimentListFactory.from_json_file("data.expt", check_format=False)
    crystal = experiment.crystal
    u = np.array(crystal.get_U()).reshape(3, 3)
    a, _, c = crystal.get_unit_cell().parameters()[:3]
    crystal.set_unit_cell(uctbx.unit_cell((1.002 * a, 1.002 * a, 0.998 * c, 90, 90, 90)))
    turn = Rotation.from_rotvec(np.radians(0.15) * np.array([0.37, 0.87, 0.33])).as_matrix()
    crystal.set_A(tuple((turn @ u @ np.array(crystal.get_B()).reshape(3, 3)).flatten()))
    ExperimentList([experiment]).as_file("known.expt")


def draw(seed: int) -> None:
    """data.nxs in the current folder: the photons that were counted in this draw of the noise."""
    shutil.copy("../data.nxs", "data.nxs")
    with h5py.File("data.nxs", "r+") as file:
        images = file["entry/data/data"]
        images[...] = np.random.default_rng(seed).poisson(images[...])


def indexed() -> None:
    """indexed.expt and .refl, by DIALS, from a crystal known roughly."""
    run("dials", "dials_import", "data.nxs", "output.experiments=imported.expt")
    run("dials", "find_spots", "imported.expt", "nproc=1")
    (experiment,) = ExperimentListFactory.from_json_file("imported.expt", check_format=False)
    (known,) = ExperimentListFactory.from_json_file("../known.expt", check_format=False)
    experiment.crystal = known.crystal
    ExperimentList([experiment]).as_file("known.expt")
    run("dials", "index", "known.expt", "strong.refl", *FIXED)


def one(seed: int, *extra: str) -> dict[str, dict[str, float]]:
    """Errors of one draw after dials.refine and after nanobragg.refine, in the current folder."""
    draw(seed)
    indexed()
    run("dials", "refine", "indexed.expt", "indexed.refl", "scan_varying=False", *FIXED)
    output = "output.prefix=pixels", "output.overwrite=True", "output.pictures=False"
    files = "indexed.expt", "indexed.refl", "../F.mtz"
    run("nanobragg_plugin", "refine", *files, *START, REFINED, *output, *extra)
    # what dials.integrate makes of the true models
    (experiment,) = ExperimentListFactory.from_json_file("imported.expt", check_format=False)
    (true,) = ExperimentListFactory.from_json_file("../data.expt", check_format=False)
    experiment.crystal = true.crystal
    ExperimentList([experiment]).as_file("true.expt")
    shutil.copy("refined.refl", "true.refl")
    best = integrated("true")
    found = {"true": {**errors("true.expt"), **reached(best, best)}}
    for name in BOTH:
        found[name] = {**errors(f"{name}.expt"), **reached(integrated(name), best)}
    return found


def errors(name: str) -> dict[str, float]:
    """Of a file's models."""
    true, found = (
        ExperimentListFactory.from_json_file(file, check_format=False)[0]
        for file in ("../data.expt", name)
    )
    result = truth.compare_crystals(true.crystal, found.crystal)
    centres = [np.array(e.detector[0].get_beam_centre_px(e.beam.get_s0())) for e in (true, found)]
    distances = [e.detector[0].get_directed_distance() for e in (true, found)]
    return {
        "misorientation, degrees": result.misorientation_deg,
        "cell, %": result.cell_error_percent,
        "beam centre, pixels": float(np.hypot(*(centres[1] - centres[0]))),
        "distance, mm": abs(distances[1] - distances[0]),
    }


def integrated(name: str) -> dict[tuple[int, int, int], tuple[float, float]]:
    """Intensities by profile fitting of dials.integrate with a file's models, Lorentz and
    polarization factors taken off, and partialities."""
    files = f"{name}.expt", f"{name}.refl", f"output.reflections={name}_integrated.refl"
    run("dials", "integrate", *files, f"output.experiments={name}_integrated.expt", "nproc=1")
    table = flex.reflection_table.from_file(f"{name}_integrated.refl")
    table = table.select(table.get_flags(table.flags.integrated_prf))
    values = table["intensity.prf.value"] * table["lp"]
    return dict(zip(table["miller_index"], zip(values, table["partiality"])))


def reached(found: dict, best: dict) -> dict[str, float]:
    """How many of the reflections that the true models have in the scan were integrated (models
    that are off have others, too), and how well intensities agree with F^2, of those that the scan
    has whole: of what it cuts off the fit of a profile has to guess the rest."""
    array = mtz.object("../F.mtz").as_miller_arrays()[0].as_intensity_array()
    true = array.expand_to_p1().generate_bijvoet_mates()
    squares = dict(zip(true.indices(), true.data()))
    seen = [hkl for hkl in best if hkl in found]
    whole = [hkl for hkl in seen if best[hkl][1] > WHOLE]
    pairs = np.array([(squares[hkl], found[hkl][0]) for hkl in whole])
    return dict(zip(REACHED, (len(seen), float(np.corrcoef(pairs.T)[0, 1]))))


def main(folder: str = "refine_dials", draws: int = 6, *extra: str) -> list[dict]:
    """Errors of all draws (see `one`); extra: parameters of nanobragg.refine."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if not Path("data.nxs").exists():
        simulate()
    found = []
    for seed in range(1, draws + 1):
        Path(f"draw_{seed}").mkdir(exist_ok=True)
        os.chdir(f"draw_{seed}")
        found.append(one(seed, *extra))
        os.chdir("..")
    return found


def means(found: list[dict]) -> dict[str, dict[str, float]]:
    """Root mean squares of errors over the draws, and means of what dials.integrate reached."""
    result: dict[str, dict[str, float]] = {name: {} for name in found[0]}
    for name, rows in result.items():
        for row in found[0][name]:
            values = np.array([each[name][row] for each in found], dtype=float)
            rows[row] = float(values.mean() if row in REACHED else np.sqrt((values**2).mean()))
    return result


def report(found: list[dict]) -> None:
    """Print all side by side: each draw, and all."""
    tables = {f"draw {number + 1}": each for number, each in enumerate(found)}
    tables["all: root mean squares, and means of the last two"] = means(found)
    for title, values in tables.items():
        print(f"\n  {title:50}" + "".join(f"{BOTH.get(name, name):>18}" for name in values))
        for row in values["pixels"]:
            words = (f"{one[row]:18.5g}" for one in values.values())
            print(f"  {row:50}" + "".join(words))


if __name__ == "__main__":
    report(main(*sys.argv[1:2], *map(int, sys.argv[2:3]), *sys.argv[3:]))
