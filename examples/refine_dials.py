"""A weak sweep: DIALS finds, indexes and refines it, nanobragg.refine refines it against pixels.

python examples/refine_dials.py [FOLDER]

Ten images of half a degree, whose strongest spots have one to three thousand photons, with Poisson
noise. Both refinements start from what dials.index found, and both are compared with the truth;
dials.integrate then takes what each of them wrote.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from demo import HERE, command, write_structure_factors

from nanobragg_plugin.compare import truth  # isort: skip

import numpy as np
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory

#: A small detector of large pixels, and domains whose spots are as large.
DATA = (
    *(
        "geometry.detector.panel.pixel_size=0.344,0.344",
        "geometry.detector.panel.image_size=241,251",
    ),
    *("geometry.detector.panel.origin=-41.5,43.2,-180", "geometry.scan.image_range=1,10"),
    *("crystal.Ncells_abc=5,5,10", "crystal.mosaic.spread_deg=0.2", "crystal.mosaic.domains=300"),
    *("crystal.mosaic.seed=17", "crystal.size_mm=None", "crystal.spot_scale=1e8"),
    *("beam.flux=None", "beam.fluence=7e17", "sampling.oversample=3", "sampling.phisteps=6"),
    *("background.level=1", "output.truth=True", "output.overwrite=True", "output.prefix=data"),
)
#: What is known of the crystal: half as much again of its domains' size, twice its spread.
START = "crystal.Ncells_abc=7.5,7.5,15", "crystal.mosaic.spread_deg=0.4"
KNOWN = "unit_cell=79.1,79.1,38.4,90,90,90", "space_group=P43212"
#: In five degrees a turn of detector and crystal about the beam is not determined, nor one of both
#: and the beam about the vertical: the beam's direction is known.
FIXED = "detector.fix=orientation", "beam.fix=all"
#: What dials.refine refines, and what it does not know of.
REFINED = "refine.parameters=orientation+cell+detector_shift+distance+domains+mosaic+scale"


def main(folder: str = "refine_dials", *extra: str) -> dict[str, dict[str, float]]:
    """Errors after dials.refine and after nanobragg.refine; extra: parameters of the latter."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    write_structure_factors("F.mtz")
    if not Path("data.expt").exists():
        command("nanobragg.simulate", str(HERE / "sweep.phil"), "F.mtz", *DATA)
    command("dials.import", "data.nxs", "output.experiments=imported.expt")
    command("dials.find_spots", "imported.expt", "nproc=1")
    command("dials.index", "imported.expt", "strong.refl", *KNOWN, *FIXED)
    command("dials.refine", "indexed.expt", "indexed.refl", "scan_varying=False", *FIXED)
    output = "output.prefix=pixels", "output.overwrite=True"
    files = "indexed.expt", "indexed.refl", "F.mtz"
    command("nanobragg.refine", *files, *START, REFINED, *output, *extra)
    found = {}
    for name in ("indexed", "refined", "pixels"):
        found[name] = errors(f"{name}.expt")
        if name != "indexed":
            found[name].update(integrated(name))
    return found


def errors(name: str) -> dict[str, float]:
    """Of a file's models."""
    true, one = (
        ExperimentListFactory.from_json_file(file, check_format=False)[0]
        for file in ("data.expt", name)
    )
    result = truth.compare_crystals(true.crystal, one.crystal)
    centres = [np.array(e.detector[0].get_beam_centre_px(e.beam.get_s0())) for e in (true, one)]
    distances = [e.detector[0].get_directed_distance() for e in (true, one)]
    return {
        "misorientation, degrees": result.misorientation_deg,
        "cell, %": result.cell_error_percent,
        "beam centre, pixels": float(np.hypot(*(centres[1] - centres[0]))),
        "distance, mm": abs(distances[1] - distances[0]),
    }


def integrated(name: str) -> dict[str, float]:
    """dials.integrate with a file's models: how many reflections, and how well their intensities
    by summation agree with the true photons."""
    files = f"{name}.expt", f"{name}.refl", f"output.reflections={name}_integrated.refl"
    command("dials.integrate", *files, f"output.experiments={name}_integrated.expt", "nproc=1")
    table = flex.reflection_table.from_file(f"{name}_integrated.refl")
    table = table.select(table.get_flags(table.flags.integrated_prf))
    true = flex.reflection_table.from_file("data.truth.refl")
    photons = dict(zip(map(tuple, true["miller_index"]), true["intensity.sum.value"]))
    pairs = [
        (photons[hkl], value)
        for hkl, value in zip(map(tuple, table["miller_index"]), table["intensity.prf.value"])
        if hkl in photons
    ]
    correlation = np.corrcoef(np.array(pairs).T)[0, 1]
    return {"integrated": len(table), "correlation with the truth": float(correlation)}


def report(found: dict[str, dict[str, float]]) -> None:
    """Print them side by side."""
    names = {"indexed": "dials.index", "refined": "dials.refine", "pixels": "nanobragg.refine"}
    print(f"\n  {'':28}" + "".join(f"{names[key]:>18}" for key in found))
    for row in found["pixels"]:
        values = (found[key].get(row) for key in found)
        words = (f"{'':>18}" if value is None else f"{value:18.5g}" for value in values)
        print(f"  {row:28}" + "".join(words))


if __name__ == "__main__":
    report(main(*sys.argv[1:]))
