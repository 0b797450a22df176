"""What nanobragg.benchmark measures: every case, kernel and number of threads in its own process,
in turns with nanoBragg.c."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.run import benchmark_cases as cases
from nanobragg_plugin.run.benchmark_processes import NanoBraggC, Worker

KERNELS = ("dense", "sparse")
#: Of an image's maximum: what `sparse` may leave out of a pixel.
TOLERANCE = 1e-6
Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What is asked for, as phil/benchmark.phil says; folder: for files, all of them temporary."""

    cases: tuple[str, ...]
    kernels: tuple[str, ...]
    threads: tuple[int, ...]
    repeats: int
    small: float
    cold: bool
    sweep_images: int
    options: dict[str, str]
    folder: Path
    gradients: bool = False
    device: str = "cpu"

    def begin(self, case: cases.Case | str, kernel: str, tolerance: float) -> dict[str, Any]:
        """What a worker is told first; case: or the sweep's name."""
        return {
            "case": case if isinstance(case, str) else asdict(case),
            "folder": str(self.folder),
            "small": self.small,
            "device": self.device,
            "options": {**self.options, "kernel": kernel, "tolerance": tolerance},
        }


@dataclass
class Runner:
    """A kernel with a number of threads that is measured: its process, and its record so far."""

    worker: Worker
    kernel: str
    threads: int
    record: dict[str, Any]
    image: Path


def measure(settings: Settings, program: NanoBraggC | None, say: Say) -> Iterator[dict[str, Any]]:
    """The record of each case; say: told what is being done."""
    cases.write_amplitudes(settings.folder)
    for name in settings.cases:
        if name == cases.SWEEP:
            yield measure_sweep(settings, say)
        else:
            yield measure_case(cases.CASES[name], settings, program, say)


def measure_case(
    case: cases.Case, settings: Settings, program: NanoBraggC | None, say: Say
) -> dict[str, Any]:
    """Times, memory and differences of a case: `runs`, one a kernel and number of threads; `c` of
    nanoBragg.c, or None."""
    with ExitStack() as stack:
        reference, runners = None, []
        for kernel in settings.kernels:
            if kernel == "sparse":
                say(f"{case.name}: the image that sparse is compared with")
                reference = dense_image(case, settings, runners)
                check_light(reference, case, settings)
            for threads in settings.threads:
                say(f"{case.name} {kernel}, {threads} threads: first images")
                tolerance = 0.0 if reference is None else TOLERANCE * float(reference.max())
                begin = settings.begin(case, kernel, tolerance)
                runners.append(start(begin, threads, settings, stack))
        of_c = in_turns(case, settings, runners, program, say)
        c_image = program.photons(case) if program and not case.gauss else None
        for runner in runners:
            runner.record["peak_mb"] = runner.worker.ask("peak")["mb"]
            if settings.gradients:
                say(f"{case.name} {runner.kernel}, {runner.threads} threads: derivatives")
                found = runner.worker.ask("derivatives", repeats=settings.repeats)
                runner.record["derivatives"] = found
        for runner in runners:
            finish(runner, reference, c_image)
    (steps,) = {runner.record.pop("steps") for runner in runners}
    if of_c:
        of_c["ns_per_step"] = of_c["best_s"] / steps * 1e9
    runs = [with_rates(runner.record, steps, of_c) for runner in runners]
    return {"case": case.name, "what": case.what, "steps": steps, "runs": runs, "c": of_c}


def dense_image(case: cases.Case, settings: Settings, runners: list[Runner]) -> np.ndarray:
    """The image [slow, fast] by the dense kernel, photons: a runner's that has it, or a process's
    that is not timed."""
    path = settings.folder / "dense.npy"
    if runners:
        runners[0].worker.ask("save", path=str(path))
        return np.load(path)
    with Worker(max(settings.threads), None, **settings.begin(case, "dense", 0.0)) as worker:
        worker.ask("first")
        worker.ask("save", path=str(path))
    return np.load(path)


def check_light(image: np.ndarray, case: cases.Case, settings: Settings) -> None:
    """`Sorry` for an image of nothing: sparse has no maximum there to take its tolerance from."""
    if not image.any():
        raise Sorry(
            f"{case.name}: no photon falls on the part of the detector that small="
            f"{settings.small:g} leaves; give a larger one"
        )


def start(begin: dict[str, Any], threads: int, settings: Settings, stack: ExitStack) -> Runner:
    """A worker that is ready to be timed, and the times of the first images: cold, of a process
    before it, and warm. What is opened is closed with the stack."""
    kernel = begin["options"]["kernel"]
    record: dict[str, Any] = {"kernel": kernel, "threads": threads}
    if kernel == "sparse":
        record.update(tolerance_of_max=TOLERANCE, tolerance_photons=begin["options"]["tolerance"])
    cache = stack.enter_context(fresh_cache(settings))
    if cache is not None:
        with Worker(threads, cache, **begin) as worker:
            record["first_cold_s"] = worker.ask("first")["seconds"]
    worker = stack.enter_context(Worker(threads, cache, **begin))
    first = worker.ask("first")
    record.update(steps=first["steps"], first_warm_s=first["seconds"])
    record.update(per_sweep_s=worker.ask("settle")["seconds"], images_s=[])
    return Runner(worker, kernel, threads, record, settings.folder / f"{kernel}_{threads}.npy")


@contextmanager
def fresh_cache(settings: Settings) -> Iterator[Path | None]:
    """An empty folder for compiled code; None where cold starts are not asked for."""
    if not settings.cold:
        yield None
        return
    folder = tempfile.mkdtemp(prefix="compiled-", dir=settings.folder)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_turns(
    case: cases.Case,
    settings: Settings,
    runners: list[Runner],
    program: NanoBraggC | None,
    say: Say,
) -> dict[str, Any] | None:
    """Time an image of each and one of nanoBragg.c, and again; nanoBragg.c's record."""
    pairs = []
    for repeat in range(settings.repeats):
        say(f"{case.name}: round {repeat + 1} of {settings.repeats}")
        for runner in runners:
            runner.record["images_s"].append(runner.worker.ask("again")["seconds"])
        if program is not None:
            pairs.append(program.seconds(case, settings.small))
    return c_record(pairs) if pairs else None


def c_record(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """nanoBragg.c's times of an image, s, of pairs: a whole run, and one of reading and writing."""
    runs, files = (list(seconds) for seconds in zip(*pairs))
    usual = statistics.median(files)
    # of a part of a detector the two may be alike, and noise may turn them around
    images = [max(0.0, seconds - usual) for seconds in runs]
    return {"runs_s": runs, "files_s": files, "images_s": images, **best_and_median(images)}


def finish(runner: Runner, reference: np.ndarray | None, c_image: np.ndarray | None) -> None:
    """By how much a runner's image differs from others'."""
    record = runner.record
    if runner.kernel == "sparse":
        runner.worker.ask("save", path=str(runner.image))
        record["from_dense_of_max"] = cases.largest_difference(np.load(runner.image), reference)
    if c_image is not None:
        runner.worker.ask("parity", path=str(runner.image))
        record["from_c_of_max"] = cases.largest_difference(np.load(runner.image), c_image)
    runner.image.unlink(missing_ok=True)


def best_and_median(seconds: list[float]) -> dict[str, float]:
    """Both of a list of times."""
    return {"best_s": min(seconds), "median_s": statistics.median(seconds)}


def with_rates(record: dict[str, Any], steps: int, of_c: dict[str, Any] | None) -> dict[str, Any]:
    """A run's record with what follows from its times. nanoBragg.c runs on one thread, and is set
    against one of ours."""
    record = {**record, **best_and_median(record["images_s"])}
    record["ns_per_step"] = record["best_s"] / steps * 1e9
    record["images_per_s"] = 1 / record["best_s"]
    if of_c and record["threads"] == 1:
        record["speedup_best"] = of_c["best_s"] / record["best_s"]
        record["speedup_median"] = of_c["median_s"] / record["median_s"]
    return record


def measure_sweep(settings: Settings, say: Say) -> dict[str, Any]:
    """The record of the sweep: `runs`, one a number of threads."""
    runs = []
    for threads in settings.threads:
        say(f"{cases.SWEEP}, {threads} threads: {settings.sweep_images} images")
        # what it may leave out is in photons there, a parameter of the sweep
        begin = settings.begin(cases.SWEEP, "auto", 0.0)
        with Worker(threads, None, **begin) as worker:
            runs.append({"threads": threads, **worker.ask("sweep", images=settings.sweep_images)})
    what = f"{cases.SWEEP_OF.what}, Poisson noise, gzip"
    return {"case": cases.SWEEP, "what": what, "runs": runs}
