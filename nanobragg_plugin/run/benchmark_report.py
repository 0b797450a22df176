"""What nanobragg.benchmark found, as text and as JSON's content."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nanobragg_plugin import __version__
from nanobragg_plugin.run import benchmark_device, benchmark_gradients, resources

#: Heading, width, and how a run's record gives the text under it.
COLUMNS = (
    ("kernel", 6, lambda run: run["kernel"]),
    ("threads", 7, lambda run: str(run["threads"])),
    ("cold s", 7, lambda run: number(run.get("first_cold_s"), ".2f")),
    ("warm s", 7, lambda run: number(run.get("first_warm_s"), ".2f")),
    ("best s", 8, lambda run: number(run["best_s"], ".3g")),
    ("median s", 8, lambda run: number(run["median_s"], ".3g")),
    ("ns/step", 8, lambda run: number(run["ns_per_step"], ".3g")),
    ("images/s", 8, lambda run: number(run["images_per_s"], ".3g")),
    ("peak MB", 7, lambda run: number(run.get("peak_mb"), ".0f")),
    ("x C", 6, lambda run: number(run.get("speedup_best"), ".3g")),
    ("x C med.", 8, lambda run: number(run.get("speedup_median"), ".3g")),
    ("from C", 8, lambda run: number(run.get("from_c_of_max"), ".1e")),
    ("from dense", 10, lambda run: number(run.get("from_dense_of_max"), ".1e")),
    ("of tol.", 7, lambda run: number(of_tolerance(run), ".2f")),
)
LEGEND = """\
cold, warm s: to the first image, in a process that finds nothing compiled, and in a second one.
best, median s: of an image, its process warm. ns/step: of the best, over all steps of the case,
of sparse too. peak MB: of these images, above the process after imports and compilation.
x C: nanoBragg.c's best time over ours, each on one thread; x C med.: the same of the medians.
from C: largest difference of a pixel from nanoBragg.c's, with its phi carryover, over the
maximum. from dense: the same of sparse from dense; of tol.: over the tolerance, 1e-6 of the
maximum."""
#: What differs on a device that is no CPU.
ELSEWHERE = """\
Images stay there: a time ends when it has done. peak MB: what torch has there, above that before.
x C: nanoBragg.c runs on one thread of the CPU."""
#: What /proc/cpuinfo calls the processor's name.
KINDS = ("model name", "Hardware", "Model")


def machine(device: torch.device) -> dict[str, Any]:
    """What it was measured on, when, and what else ran (the load of the last minute)."""
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_model(),
        "cores": resources.cores(),
        "device": str(device),
        "device_name": benchmark_device.name_of(device),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "nanobragg_plugin": __version__,
    }


def cpu_model(path: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, with its vector instructions where they matter."""
    try:
        text = path.read_text()
    except OSError:
        return platform.processor() or platform.machine()
    lines = [line.partition(":") for line in text.splitlines()]
    said = {key.strip(): value.strip() for key, _, value in lines}
    name = next((said[kind] for kind in KINDS if kind in said), platform.machine())
    flags = said.get("flags", "").split()
    vectors = [flag for flag in ("avx2", "avx512f") if flag in flags]
    return f"{name} ({', '.join(vectors)})" if vectors else name


def head(about: dict[str, Any], small: float) -> str:
    """The first lines."""
    name = about["device_name"]
    lines = [
        "nanobragg.benchmark {nanobragg_plugin}, torch {torch}, Python {python}".format(**about),
        "{date}, {cpu}, {cores} cores, {system}".format(**about)
        + f", load {number(about['load'], '.1f')} before",
        f"device {about['device']}" + (f", {name}" if name else ""),
    ]
    if small < 1:
        lines.append(f"small={small:g}: of a part of each detector, not comparable with the whole")
    return "\n".join([*lines, "", LEGEND, *([ELSEWHERE] if name else [])])


def block(record: dict[str, Any]) -> str:
    """The lines of a case."""
    if "steps" not in record:
        return "\n".join(["", f"{record['case']}: {record['what']}", *_sweep_lines(record)])
    lines = ["", f"{record['case']}: {record['what']}; {record['steps'] / 1e6:.4g} million steps"]
    lines.append(" ".join(f"{name:>{width}}" for name, width, _ in COLUMNS))
    for run in record["runs"]:
        lines.append(" ".join(f"{text(run):>{width}}" for _, width, text in COLUMNS))
    if record["c"]:
        of_c = record["c"]
        lines.append(
            "nanoBragg.c, 1 thread: best {best_s:.3g} s, median {median_s:.3g} s, "
            "{ns_per_step:.3g} ns/step, without ".format(**of_c)
            + f"{statistics.median(of_c['files_s']):.2g} s of reading and writing"
        )
    lines += _scaling(record["runs"])
    for run in record["runs"]:
        lines += benchmark_gradients.lines(run) if "derivatives" in run else []
    return "\n".join(lines)


def _scaling(runs: list[dict[str, Any]]) -> Iterator[str]:
    """How much faster more threads are than one."""
    alone = {run["kernel"]: run["best_s"] for run in runs if run["threads"] == 1}
    for run in runs:
        if run["threads"] > 1 and run["kernel"] in alone:
            ratio = alone[run["kernel"]] / run["best_s"]
            yield f"{run['kernel']}: {run['threads']} threads are {ratio:.2f} times one"


def _sweep_lines(record: dict[str, Any]) -> Iterator[str]:
    for run in record["runs"]:
        further = run["further_s"]
        yield (
            f"{run['threads']} threads: first image {run['first_s']:.2f} s, {len(further)} more "
            f"{min(further):.3g} to {max(further):.3g} s each, end {run['close_s']:.2g} s, "
            f"{run['bytes'] / 1e6 / (1 + len(further)):.2f} MB an image, peak "
            f"{number(run['peak_mb'], '.0f')} MB"
        )
        yield (
            f"  extrapolated from these, not run: {run['images_of_whole']} images in "
            f"{run['whole_s_extrapolated'] / 3600:.2f} hours"
        )


def of_tolerance(run: dict[str, Any]) -> float | None:
    """The largest difference of sparse from dense, over its tolerance, where there is one."""
    difference, part = run.get("from_dense_of_max"), run.get("tolerance_of_max")
    return None if difference is None or not part else difference / part


def number(value: float | None, form: str) -> str:
    """A number's text; - for none."""
    return "-" if value is None else format(value, form)
