"""Amplitudes from stills whose spots overlap: integrated and merged by DIALS, and refined.

python examples/refine_amplitudes.py [FOLDER [STILLS]]

Stills of nanocrystals in random orientations, with Poisson noise; neighbouring spots are two and a
half pixels apart. DIALS gets the true models: dials.ssx_integrate integrates (ellipsoid, with
partialities), and what it found is merged in several ways. nanobragg.refine gets orientations that
are 0.05 degrees off, domains 10 % too large, and one amplitude for all reflections.
"""

from __future__ import annotations

import os
import shutil
import sys
import types
from pathlib import Path

import numpy as np
from cctbx import crystal, miller
from demo import HERE
from dials.array_family import flex
from dxtbx.model import ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory
from iotbx import mtz
from refine_dials import run, write_amplitudes
from scipy.spatial.transform import Rotation

DATA = (
    *(
        "geometry.detector.panel.pixel_size=0.43,0.43",
        "geometry.detector.panel.image_size=65,67",
    ),
    *("geometry.detector.panel.origin=-13.8,14.4,-90", "stills.fluence_sigma_percent=30"),
    *("crystal.Ncells_abc=3,3,6", "crystal.mosaic.spread_deg=0", "crystal.mosaic.domains=1"),
    *("crystal.spot_scale=1e8", "beam.fluence=1e19", "sampling.oversample=4"),
    *("sampling.subpixels=moments", "compute.compile=never"),
    *("output.prefix=data", "output.log=None", "output.overwrite=True"),
)
START = (
    *("crystal.Ncells_abc=3.3,3.3,6.6", "sampling.oversample=2", "sampling.thicksteps=1"),
    "sampling.subpixels=moments",
    *("refine.parameters=orientation+domains+scale+amplitudes", "refine.positions=False"),
    *("refine.shoeboxes.background=constant", "refine.shoeboxes.border_px=0"),
    "refine.coarse=False",
    *("output.pictures=False", "output.overwrite=True"),
)
#: Amplitudes first: the models are nearer to the truth than they.
STAGES = """
refine.stage { parameters = amplitudes }
refine.stage { parameters = amplitudes scale orientation domains }
"""
#: Degrees by which orientations start off.
OFF = 0.05


def simulate(stills: int) -> None:
    """data.expt and data.nxs; flat.mtz, one amplitude for all."""
    write_amplitudes("F.mtz")
    files = str(HERE / "still.phil"), "F.mtz"
    run("nanobragg_plugin", "simulate", *files, f"stills.count={stills}", *DATA)
    true = mtz.object("F.mtz").as_miller_arrays()[0]
    flat = true.customized_copy(data=flex.double(true.size(), flex.mean(true.data())))
    flat.as_mtz_dataset(column_root_label="F").mtz_object().write("flat.mtz")


def indexed() -> None:
    """indexed.expt and .refl: the true models, and the spots that DIALS finds, indexed by them."""
    run("dials", "find_spots", "data.expt", "nproc=1", "min_spot_size=2")
    experiments = ExperimentListFactory.from_json_file("data.expt", check_format=False)
    table = flex.reflection_table.from_file("strong.refl")
    table["imageset_id"] = table["id"]
    table.centroid_px_to_mm(experiments)
    table.map_centroids_to_reciprocal_space(experiments)
    rlp, number = np.array(table["rlp"]).reshape(-1, 3), np.array(table["id"])
    inverse = [np.linalg.inv(np.reshape(x.crystal.get_A(), (3, 3))) for x in experiments]
    hkl = np.einsum("nij,nj->ni", np.array(inverse)[number], rlp)
    table["miller_index"] = flex.miller_index(np.round(hkl).astype(int).tolist())
    good = flex.bool((np.abs(hkl - np.round(hkl)).max(1) < 0.3).tolist())
    table.set_flags(good, table.flags.indexed)
    table["entering"] = flex.bool(len(table), False)
    table = table.select(good)
    for kind in ("px", "mm"):
        table[f"xyzcal.{kind}"] = table[f"xyzobs.{kind}.value"]
    for place, one in enumerate(experiments):
        one.identifier = f"still{place}"
        table.experiment_identifiers()[place] = one.identifier
    experiments.as_file("indexed.expt")
    table.as_file("indexed.refl")


def start() -> None:
    """start.expt and .refl: the stills that dials.ssx_integrate integrated, all reflections that it
    predicted, and the true models, but with orientations off."""
    shutil.copy("integrated_1.refl", "start.refl")
    known = ExperimentListFactory.from_json_file("integrated_1.expt", check_format=False)
    every = ExperimentListFactory.from_json_file("indexed.expt", check_format=False)
    kept = set(known.identifiers())
    experiments = ExperimentList([one for one in every if one.identifier in kept])
    made = np.random.default_rng(5)
    for one in experiments:
        axis = made.normal(size=3)
        turn = Rotation.from_rotvec(np.radians(OFF) * axis / np.linalg.norm(axis)).as_matrix()
        matrix = turn @ np.reshape(one.crystal.get_A(), (3, 3))
        one.crystal.set_A(tuple(matrix.flatten()))
    experiments.as_file("start.expt")


def integrated() -> dict[str, dict]:
    """Intensities by dials.ssx_integrate, merged in several ways."""
    # Debian's cctbx lacks a module that DIALS' integrator of stills imports, but does not use
    sys.modules.setdefault("xfel_mono_sim_ext", types.ModuleType("xfel_mono_sim_ext"))
    run("dials", "ssx_integrate", "indexed.expt", "indexed.refl", "nproc=1", "output.html=None")
    files = "integrated_1.expt", "integrated_1.refl"
    options = "model=KB", "reflection_selection.method=use_all", "output.html=None"
    run("dials", "scale", *files, *options)
    table = flex.reflection_table.from_file("integrated_1.refl")
    table = table.select(table.get_flags(table.flags.integrated_sum))
    partiality = np.array(table["partiality"])
    values = np.array(table["intensity.sum.value"]) / partiality
    sigmas = np.sqrt(np.array(table["intensity.sum.variance"])).clip(1) / partiality
    found = {}
    for least in (0.05, 0.2, 0.4, 0.6):
        some = partiality > least
        own = table["miller_index"].select(flex.bool(some.tolist()))
        found[f"partiality above {least}"] = merged(own, values[some], sigmas[some])
    scaled = flex.reflection_table.from_file("scaled.refl")
    scaled = scaled.select(~scaled.get_flags(scaled.flags.bad_for_scaling, all=False))
    factor = np.array(scaled["inverse_scale_factor"])
    values = np.array(scaled["intensity.scale.value"]) / factor
    sigmas = np.sqrt(np.array(scaled["intensity.scale.variance"])) / factor
    for least in (0.4, 0.6):
        some = np.array(scaled["partiality"]) > least
        own = scaled["miller_index"].select(flex.bool(some.tolist()))
        found[f"dials.scale, partiality above {least}"] = merged(own, values[some], sigmas[some])
    return found


def merged(indices: flex.miller_index, values: np.ndarray, sigmas: np.ndarray) -> dict:
    """Of unmerged intensities [n] with sigmas, by cctbx; of each unique reflection."""
    array = miller.set(symmetry(), indices, anomalous_flag=False).array(
        data=flex.double(values), sigmas=flex.double(sigmas)
    )
    array = array.set_observation_type_xray_intensity().map_to_asu()
    array = array.merge_equivalents(algorithm="gaussian").array()
    return dict(zip(array.indices(), array.data()))


def symmetry() -> crystal.symmetry:
    """Of the crystal that was simulated."""
    return mtz.object("F.mtz").as_miller_arrays()[0].crystal_symmetry()


def amplitudes(name: str) -> dict[tuple[int, int, int], tuple[float, float]]:
    """F and SIGF of an .mtz."""
    array = mtz.object(name).as_miller_arrays()[0].map_to_asu()
    sigmas = array.sigmas() or flex.double(array.size(), 0)
    return dict(zip(array.indices(), zip(array.data(), sigmas)))


def correlations(found: dict, true: dict, chosen: set) -> tuple[float, float]:
    """Of F and of intensities with the true ones, of chosen reflections."""
    pairs = np.array([(found[hkl], true[hkl][0] ** 2) for hkl in chosen])
    roots = np.sqrt(pairs.clip(0))
    return tuple(float(np.corrcoef(both.T)[0, 1]) for both in (roots, pairs))


def main(folder: str = "refine_amplitudes", stills: int = 20, *extra: str) -> tuple[dict, tuple]:
    """Of each way to merge correlations of F and F^2 with the truth, those of refined F over the
    same reflections, and how many these are; and `pulls` of refined F. extra: parameters of
    nanobragg.refine."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    simulate(stills)
    indexed()
    merges = integrated()
    start()
    Path("stages.phil").write_text(STAGES, encoding="utf-8")
    files = "start.expt", "start.refl", "flat.mtz", "stages.phil"
    run("nanobragg_plugin", "refine", *files, *START, *extra)
    true, mine = amplitudes("F.mtz"), amplitudes("refined.mtz")
    squares = {hkl: f**2 for hkl, (f, _) in mine.items()}
    result = {}
    for name, one in merges.items():
        chosen = set(one) & set(mine) & set(true)
        both = (correlations(found, true, chosen) for found in (one, squares))
        result[name] = (*both, len(chosen))
    return result, pulls(mine, true)


def pulls(mine: dict, true: dict) -> tuple[float, float]:
    """Root mean square, and median size over that of a normal distribution, of errors of F over
    their sigmas, once F are on the scale of the truth."""
    rows = np.array([(f, sigma, true[hkl][0]) for hkl, (f, sigma) in mine.items() if hkl in true])
    f, sigma, truth = rows[(rows[:, 1] > 0) & (rows[:, 0] > 3 * rows[:, 1])].T
    scale = np.sum(f * truth / sigma**2) / np.sum(truth**2 / sigma**2)
    errors = (f - scale * truth) / sigma
    return float(np.sqrt((errors**2).mean())), float(np.median(np.abs(errors)) / 0.6745)


def report(found: dict[str, tuple]) -> None:
    """Print correlations side by side."""
    header = "reflections", "DIALS", "nanobragg.refine"
    print(
        f"\n  {'correlation of F (of F^2) with the truth':42}" + "".join(f"{h:>18}" for h in header)
    )
    for name, (theirs, ours, count) in found.items():
        words = (f"{f:.4f} ({square:.4f})" for f, square in (theirs, ours))
        print(f"  {name:42}{count:18}" + "".join(f"{word:>18}" for word in words))


if __name__ == "__main__":
    figures, (square, median) = main(*sys.argv[1:2], *map(int, sys.argv[2:3]), *sys.argv[3:])
    report(figures)
    print(f"  errors of refined F over sigma: rms {square:.2f}, by the median {median:.2f}")
