"""What a run takes, of time, memory and disk, and what there is of it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import resource
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from libtbx import Auto
from libtbx.utils import Sorry

from nanobragg_plugin.run.data_sets import DataSet
from nanobragg_plugin.run.writers import Form

if TYPE_CHECKING:
    from nanobragg_plugin.run.job import Job

logger = logging.getLogger("dials.nanobragg_plugin.run.resources")

GB = 1e9
#: The part of the free memory that is taken without asking.
SHARE = 0.8
#: Bytes that simulating takes beyond what a process has when it has planned: whatever is simulated,
#: what is compiled, a pixel of an image (of which some is kept for the next), a thread. Measured
#: within 15 % with torch 2.13, on 1 to 6 million pixels.
BASE_BYTES, COMPILED_BYTES, PIXEL_BYTES, THREAD_BYTES = 60e6, 150e6, 60, 40e6
#: And of a pixel what true reflections, maps and a point spread take.
TRUTH_BYTES, MAP_BYTES, SPREAD_BYTES = 190, 90, 60
#: Bytes on disk of a pixel, at least: gzip makes next to nothing of empty pixels.
LEAST_BYTES = {"nxmx": 0.005, "cbf": 1.0, "smv": 2.0, "raw": 4.0}
#: Seconds that processes take to begin: imports, planning (two at once on a busy machine).
START_S = 20.0


@dataclass(frozen=True)
class Crew:
    """Who simulates: so many processes, of so many threads each (None: as torch has it)."""

    processes: int = 1
    threads: int | None = None


def sized(size: float) -> str:
    """Bytes in words."""
    return f"{size / GB:.2f} GB" if size >= 0.1 * GB else f"{1e3 * size / GB:.3g} MB"


def cores() -> int:
    """CPU cores that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, math.ceil(int(quota) / int(period)))
    return max(1, count or 1)


def free_memory() -> int | None:
    """Bytes that processes may still take here; None where the system does not say."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(one.split()[1]) for one in lines if one.startswith("MemAvailable")]
    with contextlib.suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup")
        limit = (folder / "memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int((folder / "memory.current").read_text()))
    return min(found) if found else None


def resident() -> int:
    """Bytes that this process has now; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def open_files() -> int | None:
    """How many files, pipes and the like this process has open; None where the system does not
    say."""
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/fd"))
    return None


def forget_peak() -> None:
    """Begin `peak` anew, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes that this process has had at most."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def memory_bound(mp: Any) -> tuple[float, str] | None:
    """Bytes that this process and all that it starts may take, and where the figure is from; mp:
    the PHIL scope, extracted."""
    if mp.memory_gb is not Auto:
        return mp.memory_gb * GB, f"mp.memory_gb={mp.memory_gb:g}"
    free = free_memory()
    if free is None:
        return None
    return SHARE * (free + resident()), f"{100 * SHARE:.0f} % of what is free"


def memory_of(sets: Sequence[DataSet], made: Job, threads: int) -> float:
    """Bytes of a process that simulates these, as far as can be known before it does; called in one
    that has planned them."""
    a_pixel = PIXEL_BYTES + TRUTH_BYTES * made.truth + MAP_BYTES * made.form.maps
    pixels = [
        _pixels(one) * (a_pixel + SPREAD_BYTES * (one.images.detection.response.spread is not None))
        for one in sets
    ]
    compiled = any(compiled for _, compiled in made.kernels)
    more = BASE_BYTES + max(pixels) + THREAD_BYTES * threads
    return resident() + more + COMPILED_BYTES * compiled


def check_memory(needed: float, bound: tuple[float, str] | None) -> None:
    """`Sorry` unless so many bytes may be taken."""
    if bound is not None and needed > bound[0]:
        raise Sorry(
            f"this needs about {sized(needed)} of memory, and may take {sized(bound[0])} "
            f"({bound[1]}): give more mp.memory_gb, if there is more, or simulate fewer pixels"
        )


def check_disk(needed: float, folder: Path, what: str) -> None:
    """`Sorry` unless so many bytes more fit on the disk."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Sorry(
            f"{what} need about {sized(needed)}, {folder.absolute()} has {sized(free)} "
            "free: make room, or write elsewhere"
        )


def least_bytes(sets: Sequence[DataSet], form: Form) -> float:
    """Bytes that the images take on disk, at least."""
    a_pixel = LEAST_BYTES[form.format]
    if form.format == "nxmx" and form.compression == "none":
        a_pixel = 4.0
    return a_pixel * sum(_pixels(one) * one.images.n_images for one in sets)


def is_joined(params: Any, sets: Sequence[DataSet], form: Form) -> bool:
    """Whether NXmx files hold their images themselves; params: the scope `output`, extracted."""
    if form.format != "nxmx":
        if params.joined is not Auto:
            raise Sorry(
                f"output.joined={params.joined} does nothing for output.format={form.format}: "
                "leave it away"
            )
        return False
    if params.joined is not Auto:
        return params.joined
    return 4 * sum(_pixels(one) * one.images.n_images for one in sets) <= 32 * GB


def crew(params: Any, images: int, seconds: float, a_process: float) -> Crew:
    """Who simulates so many images of so many seconds each, in processes of so many bytes; params:
    all, extracted. `Sorry` of more than fit into the memory."""
    mp, given = params.mp, params.compute.nthreads
    threads = None if given is Auto else given
    on_gpu = not params.compute.device.startswith("cpu")
    devices = (
        len(devices_of(params.compute.device)) if on_gpu else max(1, cores() // (threads or 1))
    )
    wanted = devices if mp.nproc is Auto else mp.nproc
    bound = memory_bound(mp)
    if bound is None:
        fit = wanted
    else:
        fit = max(1, int((bound[0] - resident()) // a_process))
    if mp.nproc is not Auto:
        if 1 < mp.nproc > fit:
            raise Sorry(
                f"mp.nproc={mp.nproc} processes of about {sized(a_process)} each do not fit "
                f"into {sized(bound[0])} of memory ({bound[1]}): give mp.nproc={fit}, or more "
                "mp.memory_gb, if there is more"
            )
        processes = min(wanted, max(1, images))
    else:
        if wanted > fit:
            logger.info("%d processes, not %d, fit into the memory (%s)", fit, wanted, bound[1])
        processes = min(wanted, fit)
        saved = images * seconds * (1 - 1 / processes)
        if images < 2 * processes or saved < START_S:
            processes = 1
    if processes > 1 and threads is None and not on_gpu:
        threads = max(1, cores() // processes)
    return Crew(processes, threads)


def devices_of(device: str) -> list[str]:
    """torch's names of the devices among which work on one of that name is shared out."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or number:
        return [device]
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or [device]


def duration(seconds: float) -> str:
    """Roughly, in words."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _pixels(data_set: DataSet) -> int:
    sizes = [panel.get_image_size() for panel in data_set.images.models.detector]
    return sum(fast * slow for fast, slow in sizes)
