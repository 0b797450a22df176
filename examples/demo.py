"""The demonstration: simulate a sweep, let DIALS solve it, compare with the truth.

    python examples/demo.py [FOLDER]

Everything is written to FOLDER (default: demo). The exit status is 1 if a figure misses what
is asked of it.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

from nanobragg_plugin.compare import truth  # isort: skip  before dxtbx: torch keeps its threads

from cctbx import sgtbx, uctbx
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory

from nanobragg_plugin.adapters.miller import made_up_structure_factors

HERE = Path(__file__).resolve().parent
CELL, SPACE_GROUP, D_MIN = (79.1, 79.1, 38.4, 90, 90, 90), "P 43 21 2", 1.6

#: name -> (unit, limit, whether the value must be below it)
LIMITS = {
    "strong spots": ("", 2000, False),
    "strong spots indexed": ("%", 98, False),
    "cell length, largest error": ("%", 0.05, True),
    "misorientation": ("degrees", 0.02, True),
    "distance, error": ("mm", 0.1, True),
    "beam centre, error": ("pixels", 0.3, True),
    "RMSD fast": ("pixels", 0.3, True),
    "RMSD slow": ("pixels", 0.3, True),
    "correlation of scaled intensities with the true F^2": ("", 0.98, False),
}


def command(*words: str) -> None:
    """Run a command of this environment; what it prints goes to NAME.out."""
    name = words[0]
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if path is None:
        sys.exit(f"{name} is not installed beside {sys.executable}: run `make setup`")
    start = time.time()
    with open(f"{name}.out", "w", encoding="utf-8") as out:
        done = subprocess.run([path, *words[1:]], stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        lines = Path(f"{name}.out").read_text(encoding="utf-8").splitlines()[-15:]
        sys.exit("\n".join([*lines, f"{name} failed; all it said is in {Path.cwd()}/{name}.out"]))
    print(f"  {time.time() - start:6.1f} s  {name} {' '.join(words[1:])}", flush=True)


def write_structure_factors(path: str) -> None:
    """The amplitudes of a made-up structure with the size of lysozyme, as an .mtz."""
    cell = uctbx.unit_cell(CELL)
    amplitudes = made_up_structure_factors(sgtbx.space_group_info(SPACE_GROUP), cell, D_MIN, seed=1)
    amplitudes.as_mtz_dataset(column_root_label="F").mtz_object().write(path)


def simulate_and_process(extra: list[str]) -> None:
    """From structure factors to scaled intensities, in the current folder."""
    write_structure_factors("F.mtz")
    outputs = "output.truth=True", "output.preview=preview.png"
    command("nanobragg.simulate", str(HERE / "sweep.phil"), "F.mtz", *outputs, *extra)
    command("dials.import", "simulated.nxs")
    command("dials.find_spots", "imported.expt", "nproc=2")
    command("dials.index", "imported.expt", "strong.refl")
    command("dials.refine_bravais_settings", "indexed.expt", "indexed.refl", "nproc=2")
    setting, operator = best_setting()
    command("dials.reindex", "indexed.refl", f"change_of_basis_op={operator}")
    command("dials.refine", setting, "reindexed.refl", "scan_varying=False")
    command("dials.integrate", "refined.expt", "refined.refl", "nproc=2")
    command("dials.symmetry", "integrated.expt", "integrated.refl")
    command("dials.scale", "symmetrized.expt", "symmetrized.refl")


def best_setting() -> tuple[str, str]:
    """The accepted Bravais setting of highest symmetry, and the operator to it."""
    import json

    settings = json.loads(Path("bravais_summary.json").read_text(encoding="utf-8"))
    number = max(int(n) for n, setting in settings.items() if setting["recommended"])
    return f"bravais_setting_{number}.expt", settings[str(number)]["cb_op"]


def compare() -> dict[str, float]:
    """The figures of LIMITS, found against true."""
    import json

    output = ("output.html=compare.html", "--json", "compare.json")
    true = "simulated.expt", "simulated.truth.refl", "F.mtz"
    command("nanobragg.compare", *true, "scaled.expt", "scaled.refl", *output)
    figures = json.loads(Path("compare.json").read_text(encoding="utf-8"))
    crystal, detector = (figures["models"][0][name] for name in ("crystal", "detector"))
    indexed = flex.reflection_table.from_file("indexed.refl")
    strong = flex.reflection_table.from_file("strong.refl")
    rmsd = truth.rmsds(flex.reflection_table.from_file("refined.refl"))
    lattices = [
        ExperimentListFactory.from_json_file(name, check_format=False)[0]
        .crystal.get_space_group()
        .info()
        .as_reference_setting()
        .group()
        .crystal_system()
        for name in ("simulated.expt", "refined.expt")
    ]
    print(f"\n  lattice: {lattices[0]} simulated, {lattices[1]} found")
    print(f"  space group after dials.symmetry: {crystal['space_groups'][1]}")
    print("  cell: " + " ".join(f"{x:.4f}" for x in crystal["cell"]))
    print(
        f"  unique reflections compared: {figures['merged']['n']}; RMSD in rotation: "
        f"{rmsd[2]:.3f} images"
    )
    if lattices[0] != lattices[1]:
        sys.exit("The lattice found is not the one simulated")
    n_indexed = indexed.get_flags(indexed.flags.indexed).count(True)
    values = [
        *(len(strong), 100 * n_indexed / len(strong), crystal["cell_error_percent"]),
        *(crystal["misorientation_deg"], abs(detector["distance_error_mm"])),
        math.hypot(*detector["beam_centre_error_px"]),
        *(rmsd[0], rmsd[1], figures["merged"]["cc"]),
    ]
    return dict(zip(LIMITS, values))


def report(values: dict[str, float]) -> bool:
    """Print true against recovered; whether every figure is within its limit."""
    good = True
    print(f"\n  {'':52} {'found':>10}  asked")
    for name, (unit, limit, below) in LIMITS.items():
        within = values[name] < limit if below else values[name] >= limit
        good = good and within
        mark = "" if within else "   MISSED"
        sign = "<" if below else ">="
        print(f"  {name:52} {values[name]:10.4g}  {sign} {limit:g} {unit}{mark}")
    return good


def main(folder: str = "demo", *extra: str) -> bool:
    """All of it, in `folder`; `extra` are further parameters of the simulation."""
    import os

    start = time.time()
    place = Path(folder)
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)
    os.chdir(place)
    print(f"The demonstration writes to {Path.cwd()}")
    simulate_and_process(list(extra))
    good = report(compare())
    print(f"\n  All that was compared, with pictures: {Path.cwd() / 'compare.html'}")
    print(f"  A picture of the first image: {Path.cwd() / 'preview.png'}")
    print(f"  To look at all of them: dials.image_viewer {Path.cwd() / 'simulated.expt'}")
    print(f"  {time.time() - start:.0f} s in all")
    return good


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
