"""nanobragg.benchmark's sweep: images simulated and written as nanobragg.simulate does."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from dxtbx.model import ScanFactory

from nanobragg_plugin.adapters.params import Plan
from nanobragg_plugin.models import on_device
from nanobragg_plugin.run import benchmark_cases as cases
from nanobragg_plugin.run.data_sets import DataSet
from nanobragg_plugin.run.images import Detection, Images
from nanobragg_plugin.run.job import Job, kernels_of
from nanobragg_plugin.run.parts import fingerprint_of, opened, parts_of
from nanobragg_plugin.run.schedule import Run
from nanobragg_plugin.run.writers import NXMX

#: Degrees and seconds of an image.
WIDTH, EXPOSURE = 0.1, 0.1
#: photons/m^2: 1e11 photons/s for EXPOSURE in (0.05 mm)^2, as the preset pilatus_6m.
FLUENCE = 1e11 * EXPOSURE / (0.05e-3) ** 2
#: Domains of 100 x 100 x 100 cells in (0.05 mm)^3.
SPOT_SCALE = 0.05e-3**3 / (1e-10**3 * 100**3 * cases.CELL[0] * cases.CELL[1] * cases.CELL[2])
#: Photons in every pixel: what makes real images compress badly. And those left out of one.
BACKGROUND, TOLERANCE = 1.0, 1e-3
#: Images of a whole data set, for which the time is extrapolated.
WHOLE = 3600


def plan_of(folder: Path, small: float, images: int, options: dict[str, Any]) -> Plan:
    """The images of the sweep, one after the other in phi."""
    _, plan = cases.planned(cases.SWEEP_OF, folder, small)
    model = plan.dxtbx_experiment
    model.scan = ScanFactory.make_scan(
        (1, images), [EXPOSURE] * images, (0.0, WIDTH), dict.fromkeys(range(images), 0.0)
    )
    crystal = plan.experiment.crystal
    crystal = replace(crystal, spot_scale=0 * crystal.spot_scale + SPOT_SCALE)
    return replace(
        plan,
        experiment=replace(plan.experiment, crystal=crystal),
        fluences=(FLUENCE,) * images,
        phi_sampling="midpoint",
        options=replace(plan.options, **{**options, "tolerance": TOLERANCE}),
    )


def run(
    folder: Path, small: float, images: int, options: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    """Seconds to the first image in the file, of each further one, and to close the file; bytes
    of it; seconds of WHOLE images, extrapolated."""
    plan = on_device(plan_of(folder, small, images, options), device)
    moments = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "sweep.nxs"
        start = time.perf_counter()
        data_set = DataSet(Images([plan], Detection(background=BACKGROUND)), ())
        _write(data_set, path, lambda: moments.append(time.perf_counter()))
        end = time.perf_counter()
        size = path.stat().st_size
    further = [late - early for early, late in zip(moments, moments[1:])]
    return {**summary(moments[0] - start, further, end - moments[-1]), "bytes": size}


def _write(data_set: DataSet, path: Path, progress: Callable[[], None]) -> None:
    """Make and write the images, in this process, as nanobragg.simulate does."""
    record = {"program": "nanobragg.benchmark"}
    sets, all_parts = [data_set], parts_of([data_set.images.n_images])
    of = (path,), path.with_suffix(".parts"), fingerprint_of(record), kernels_of(sets), record
    job = Job(None, (), (), {}, *of, NXMX, False)
    with opened(job.folder, all_parts, record, overwrite=True) as folder:
        run = Run(job, sets, all_parts, folder)
        run.make_here(all_parts, progress)
        run.name_files()
        folder.remove()


def summary(first: float, further: list[float], close: float) -> dict[str, Any]:
    """The times, s, and what WHOLE images would take at the mean of the further ones."""
    mean = sum(further) / len(further)
    whole = first + (WHOLE - 1) * mean + close
    return {
        "first_s": first,
        "further_s": further,
        "close_s": close,
        "images_of_whole": WHOLE,
        "whole_s_extrapolated": whole,
    }
