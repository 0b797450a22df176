"""How long a still of a megapixel takes to refine, and how well it is known then.

python examples/refine_still.py [FOLDER]

The still is simulated with Poisson noise (its strongest spots have some 1e4 photons) and refined
against its 200 brightest shoeboxes, from as far off as in refine_accuracy.py, with the data's own
domains. Simulating takes two or three minutes, and is not done again in the same folder.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

import refine_accuracy
from demo import HERE, command, write_structure_factors

NCELLS, SPREAD = (9, 9, 18), 0.2
#: Of data and model.
SAMPLED = (
    *("crystal.mosaic.domains=300", "crystal.mosaic.seed=17"),
    *("sampling.oversample=2", "sampling.subpixels=moments"),
)
DATA = (
    *("geometry.goniometer.axis=None", "geometry.scan.image_range=None"),
    *("geometry.scan.oscillation=None", "sampling.phisteps=Auto", "beam.fluence=4e18"),
    *(*SAMPLED, *refine_accuracy.made(NCELLS, SPREAD)),
)
MODEL = *SAMPLED, "refine.shoeboxes.most=200", *refine_accuracy.refined(NCELLS, SPREAD)


def main(folder: str = "refine_still", *extra: str) -> tuple[float, float]:
    """Seconds of wall and of CPU time that nanobragg.refine takes; extra: parameters of it."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    write_structure_factors("F.mtz")
    if not Path("data.expt").exists():
        command("nanobragg.simulate", str(HERE / "sweep.phil"), "F.mtz", *DATA)
    refine_accuracy.start_off()
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command("nanobragg.refine", "start.expt", "start.refl", "F.mtz", *MODEL, *extra)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    refine_accuracy.report(refine_accuracy.figures(NCELLS[0], SPREAD))
    print(f"  nanobragg.refine took {wall:.0f} s, and {cpu:.0f} s of CPU time, imports included")
    return wall, cpu


if __name__ == "__main__":
    main(*sys.argv[1:])
