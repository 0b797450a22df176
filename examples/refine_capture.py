"""From how far off nanobragg.refine finds the truth: how often, against the start's error.

python examples/refine_capture.py [FOLDER [DRAWS [ERRORS [KINDS [WAYS]]]]]

Stills and short sweeps of crystals in random orientations are simulated with Poisson noise, and
refined from orientations that are off by 0.1, 0.2, 0.4 and 0.8 degrees about random axes, cells by
0.1 %, distances by 0.2 mm, domains half as large again and twice the spread: once with the places
of spots first (positions), once against pixels alone (pixels). Found is what ends within 4 sigma of
the true orientation. Four draws take an hour on two cores. The exit status is 1 where some draw of
0.4 degrees or less was not found.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from pathlib import Path

from nanobragg_plugin.command_line import refine, simulate  # isort: skip  before dxtbx

import numpy as np
from dials.array_family import flex
from dxtbx.model import ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx.utils import Sorry
from scipy.spatial.transform import Rotation

NCELLS, SPREAD, IMAGES = 16, 0.08, 4
MODELS = (
    *("structure_factors.default_F=100", "crystal.mosaic.domains=60", "crystal.mosaic.seed=5"),
    *("sampling.oversample=2", "sampling.subpixels=moments"),
)
DATA = (
    *MODELS,
    "geometry.detector.panel.image_size=250,224",
    "geometry.detector.panel.pixel_size=0.15,0.15",
    "geometry.detector.panel.trusted_range=-1,1000000",
    "geometry.detector.panel.origin=-19,17,-80",
    "geometry.detector.panel.slow_axis=0,-1,0",
    "geometry.beam.wavelength=1",
    "geometry.beam.direction=0,0,1",
    "geometry.crystal.unit_cell=47,47,61,90,90,90",
    "geometry.crystal.space_group=P4",
    f"crystal.Ncells_abc={NCELLS},{NCELLS},{NCELLS}",
    f"crystal.mosaic.spread_deg={SPREAD}",
    *("background.level=2", "beam.fluence=4e27", "output.truth=True", "output.overwrite=True"),
)
SWEEP = (
    "geometry.goniometer.axis=1,0,0",
    f"geometry.scan.image_range=1,{IMAGES}",
    *("geometry.scan.oscillation=0,0.5", "sampling.phisteps=5"),
)
START = (
    *MODELS,
    f"crystal.Ncells_abc={1.5 * NCELLS},{1.5 * NCELLS},{1.5 * NCELLS}",
    f"crystal.mosaic.spread_deg={2 * SPREAD}",
    "refine.parameters=orientation+cell+domains+mosaic+scale+detector_shift+distance",
    *("output.overwrite=True", "output.pictures=False", "output.log=None"),
)
ERRORS = (0.1, 0.2, 0.4, 0.8)
#: The last misorientation that counts as found, in sigma.
FOUND = 4.0


def data(kind: str, draw: int) -> str:
    """Images of a crystal in a random orientation, and its reflections, whose places are seen to
    a tenth of a pixel: the prefix of their files."""
    prefix = f"{kind}_{draw}"
    turn = Rotation.random(random_state=draw).as_euler("xyz", degrees=True)
    misset = "geometry.crystal.misset_deg=" + ",".join(f"{angle:.3f}" for angle in turn)
    more = SWEEP if kind == "sweep" else ("beam.fluence=1e28",)
    simulate.run([*DATA, *more, misset, f"output.prefix={prefix}", f"noise.seed={draw + 1}"])
    table = flex.reflection_table.from_file(f"{prefix}.truth.refl")
    table = table.select(table["intensity.sum.value"] > 300)
    places = table["xyzobs.px.value"].as_numpy_array()
    noise = np.random.default_rng(draw).normal(scale=0.1, size=places.shape)
    if kind == "still":
        noise[:, 2] = 0
    table["xyzobs.px.value"] = flex.vec3_double(places + noise)
    table.as_file(f"{prefix}.refl")
    return prefix


def start_off(prefix: str, degrees: float, seed: int) -> None:
    """start.expt: an orientation so far off about a random axis, cell and distance too."""
    made = np.random.default_rng(seed)
    (experiment,) = ExperimentListFactory.from_json_file(f"{prefix}.expt", check_format=False)
    crystal, panel = experiment.crystal, experiment.detector[0]
    axis = made.normal(size=3)
    turn = Rotation.from_rotvec(math.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    u, b = (np.array(one).reshape(3, 3) for one in (crystal.get_U(), crystal.get_B()))
    a_b, c = 1 + 1e-3 * made.choice([-1, 1], size=2)
    crystal.set_A(tuple((turn @ u @ np.diag([a_b, a_b, c]) @ b).flatten()))
    fast, slow, origin = (
        np.array(one) for one in (panel.get_fast_axis(), panel.get_slow_axis(), panel.get_origin())
    )
    origin = origin + [0, 0, 0.2 * made.choice([-1, 1])]
    panel.set_frame(*(tuple(one) for one in (fast, slow, origin)))
    ExperimentList([experiment]).as_file("start.expt")


def refined(prefix: str, *extra: str) -> tuple[float, float, float]:
    """Misorientation afterwards, degrees; the same in sigma; chi^2 per degree of freedom. All
    infinite where the refinement gave up, and said so."""
    try:
        refine.run(["start.expt", f"{prefix}.refl", *START, *extra])
    except Sorry as error:
        print(f"    {error}")
        return (math.inf,) * 3
    true, found = (
        ExperimentListFactory.from_json_file(name, check_format=False)[0].crystal
        for name in (f"{prefix}.expt", "refined.expt")
    )
    turns = [np.array(one.get_U()).reshape(3, 3) for one in (true, found)]
    off = math.degrees(Rotation.from_matrix(turns[0].T @ turns[1]).magnitude())
    content = json.loads(Path("refined.json").read_text(encoding="utf-8"))
    sigmas = {row["name"]: row["sigma"] for row in content["parameters"]}
    sigma = math.hypot(*(sigmas[f"rotation_{axis}"] for axis in "xyz"))
    return off, off / sigma, content["chi_sqr_per_degree_of_freedom"]


def main(
    folder: str = "refine_capture",
    draws: int = 4,
    errors: tuple[float, ...] = ERRORS,
    kinds: tuple[str, ...] = ("still", "sweep"),
    ways: tuple[str, ...] = ("positions", "pixels"),
    extra: tuple[str, ...] = (),
) -> dict[tuple[str, str, float], list[float]]:
    """Misorientations in sigma of all draws, by kind of data, way and error of the start; extra:
    parameters of nanobragg.refine."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    logging.disable(logging.CRITICAL)
    try:
        return all_draws(draws, errors, kinds, ways, extra)
    finally:
        logging.disable(logging.NOTSET)


def all_draws(
    draws: int,
    errors: tuple[float, ...],
    kinds: tuple[str, ...],
    ways: tuple[str, ...],
    extra: tuple[str, ...],
) -> dict[tuple[str, str, float], list[float]]:
    """As `main`, in the current folder."""
    found: dict[tuple[str, str, float], list[float]] = {}
    for kind in kinds:
        prefixes = [data(kind, draw) for draw in range(draws)]
        for way in ways:
            for error in errors:
                for draw, prefix in enumerate(prefixes):
                    start_off(prefix, error, draw)
                    began = time.time()
                    first = f"refine.positions={way == 'positions'}"
                    off, pull, chi_sqr = refined(prefix, first, *extra)
                    found.setdefault((kind, way, error), []).append(pull)
                    words = f"{kind:6}{way:10}{error:5g} degrees, draw {draw}:"
                    figures = f"{off:9.5f} degrees, {pull:8.2f} sigma, chi^2 {chi_sqr:8.3f}"
                    print(f"  {words} {figures}, {time.time() - began:4.0f} s", flush=True)
    return found


def rates(found: dict[tuple[str, str, float], list[float]]) -> str:
    """A table of how many were found."""
    errors = sorted({error for _, _, error in found})
    lines = [f"{'found, of start errors':24}" + "".join(f"{error:>8g}" for error in errors)]
    for kind, way in dict.fromkeys(key[:2] for key in found):
        each = [found.get((kind, way, error), []) for error in errors]
        counts = [f"{sum(pull < FOUND for pull in one)}/{len(one)}" for one in each]
        lines.append(f"{kind + ', ' + way:24}" + "".join(f"{count:>8}" for count in counts))
    return "\n".join(lines)


if __name__ == "__main__":
    given = sys.argv[1:6]
    made = [given[0]] if given else []
    made += [int(given[1])] if len(given) > 1 else []
    made += [tuple(map(float, given[2].split(",")))] if len(given) > 2 else []
    made += [tuple(words.split(",")) for words in given[3:]]
    all_found = main(*made)
    print(rates(all_found))
    near = [pull for key, pulls in all_found.items() if key[2] <= 0.4 for pull in pulls]
    sys.exit(0 if all(pull < FOUND for pull in near) else 1)
