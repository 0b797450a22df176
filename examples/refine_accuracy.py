"""How near nanobragg.refine comes to the truth: a sweep with Poisson noise, from a start far off.

python examples/refine_accuracy.py [FOLDER [IMAGES]]

Images of half a degree, on whose strongest spots there are some 1e4 photons, are simulated and
refined from an orientation 0.15 degrees, a cell 0.1 %, a distance 0.2 mm, shifts of 0.1 mm, domains
half as large again and twice the spread off. Twelve images take ten minutes on two cores. The exit
status is 1 if a figure misses what is asked of it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from demo import HERE, command, write_structure_factors

from nanobragg_plugin.compare import truth  # isort: skip

import numpy as np
from cctbx import uctbx
from dials.array_family import flex
from dxtbx.model import ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory
from scipy.spatial.transform import Rotation

NCELLS, SPREAD = (12, 12, 24), 0.1


def made(ncells: tuple[int, ...], spread: float) -> tuple[str, ...]:
    """Parameters of data of such domains: how bright they are, and what is written."""
    return (
        *("crystal.size_mm=None", "crystal.spot_scale=1e8", "beam.flux=None"),
        *("output.truth=True", "output.overwrite=True", "output.prefix=data"),
        *_domains(ncells, spread),
    )


def refined(ncells: tuple[int, ...], spread: float) -> tuple[str, ...]:
    """Parameters of a refinement from domains half as large again and twice the spread."""
    return (
        "refine.parameters=orientation+cell+domains+mosaic+scale+detector_shift+distance",
        *("output.overwrite=True", "output.pictures=False"),
        *_domains([1.5 * n for n in ncells], 2 * spread),
    )


def _domains(ncells: Sequence[float], spread: float) -> tuple[str, str]:
    cells = ",".join(map(str, ncells))
    return f"crystal.Ncells_abc={cells}", f"crystal.mosaic.spread_deg={spread}"


#: Of data and model: 100 other domains have their mean 0.002 degrees and their spread 4 % off,
#: which no number of photons would tell.
SAMPLED = (
    *("crystal.mosaic.domains=100", "crystal.mosaic.seed=17"),
    *("sampling.oversample=2", "sampling.subpixels=moments", "sampling.phisteps=10"),
)
DATA = (
    "geometry.detector.panel.pixel_size=0.344,0.344",
    "geometry.detector.panel.image_size=491,521",
    *("beam.fluence=7.5e17", "background.level=1", *SAMPLED, *made(NCELLS, SPREAD)),
)
#: The detector is not tilted.
MODEL = *SAMPLED, *refined(NCELLS, SPREAD)
#: name -> limit
ASKED = {
    "misorientation, degrees": 0.001,
    "cell, %": 0.01,
    "Ncells_abc, %": 2.0,
    "mosaic spread, %": 3.0,
    "distance, mm": 0.02,
    "beam centre, pixels": 0.05,
    "|chi^2 per degree of freedom - 1|": 0.03,
}


def start_off(least_photons: float = 150) -> None:
    """start.expt and start.refl: models off, and the true reflections of so many photons."""
    (experiment,) = ExperimentListFactory.from_json_file("data.expt", check_format=False)
    crystal, panel = experiment.crystal, experiment.detector[0]
    u = np.array(crystal.get_U()).reshape(3, 3)
    a, _, c = crystal.get_unit_cell().parameters()[:3]
    crystal.set_unit_cell(uctbx.unit_cell((1.001 * a, 1.001 * a, 0.999 * c, 90, 90, 90)))
    turn = Rotation.from_rotvec(np.radians(0.15) * np.array([0.37, 0.87, 0.33])).as_matrix()
    b = np.array(crystal.get_B()).reshape(3, 3)
    crystal.set_A(tuple((turn @ u @ b).flatten()))
    fast, slow, origin, normal = (
        np.array(v)
        for v in (
            *(panel.get_fast_axis(), panel.get_slow_axis(), panel.get_origin()),
            panel.get_normal(),
        )
    )
    origin = origin + 0.2 * normal * np.sign(normal @ origin) + 0.1 * fast - 0.1 * slow
    panel.set_frame(*(tuple(v) for v in (fast, slow, origin)))
    ExperimentList([experiment]).as_file("start.expt")
    table = flex.reflection_table.from_file("data.truth.refl")
    table.select(table["intensity.sum.value"] > least_photons).as_file("start.refl")


def figures(ncells: float = NCELLS[0], spread: float = SPREAD) -> dict[str, float]:
    """Of refined.expt and refined.json, by the names of ASKED; of true domains of so many cells
    along a and such a spread."""
    true, found = (
        ExperimentListFactory.from_json_file(name, check_format=False)[0]
        for name in ("data.expt", "refined.expt")
    )
    result = truth.compare_crystals(true.crystal, found.crystal)
    centres = [np.array(e.detector[0].get_beam_centre_px(e.beam.get_s0())) for e in (true, found)]
    distances = [abs(e.detector[0].get_directed_distance()) for e in (true, found)]
    content = json.loads(Path("refined.json").read_text(encoding="utf-8"))
    values = {row["name"]: row["value"] for row in content["parameters"]}
    return dict(
        zip(
            ASKED,
            (
                *(result.misorientation_deg, result.cell_error_percent),
                100 * abs(values["Ncells_a"] / ncells - 1),
                100 * abs(values["mosaic_spread"] / spread - 1),
                abs(distances[1] - distances[0]),
                float(np.hypot(*(centres[1] - centres[0]))),
                abs(content["chi_sqr_per_degree_of_freedom"] - 1),
            ),
        )
    )


def main(folder: str = "refine_accuracy", images: str = "12", *extra: str) -> bool:
    """Whether all figures are within what is asked; extra: parameters of nanobragg.refine."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    write_structure_factors("F.mtz")
    scan = f"geometry.scan.image_range=1,{images}"
    command("nanobragg.simulate", str(HERE / "sweep.phil"), "F.mtz", *DATA, scan)
    start_off()
    command("nanobragg.refine", "start.expt", "start.refl", "F.mtz", *MODEL, *extra)
    return report(figures())


def report(found: dict[str, float]) -> bool:
    """Print figures beside what is asked; whether all are within it."""
    content = json.loads(Path("refined.json").read_text(encoding="utf-8"))
    sigmas = {row["name"]: row["sigma"] for row in content["parameters"]}
    total = float(np.sqrt(sum(sigmas[f"rotation_{axis}"] ** 2 for axis in "xyz")))
    print(f"\n  {'':36}{'found':>10}{'asked':>10}")
    for name, value in found.items():
        missed = "" if value < ASKED[name] else "  MISSED"
        print(f"  {name:36}{value:10.5f}{ASKED[name]:10.3g}{missed}")
    print(f"  of the misorientation these photons leave uncertain {total:.5f} degrees (1 sigma)")
    return all(value < ASKED[name] for name, value in found.items())


if __name__ == "__main__":
    sys.exit(0 if main(*sys.argv[1:]) else 1)
