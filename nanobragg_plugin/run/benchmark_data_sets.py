"""nanobragg.benchmark's data sets: made by nanobragg.simulate, in one process and in several.

Frames of a PILATUS 6M (preset pilatus_6m), or of the middle of one, with noise and a background,
compressed.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from libtbx.utils import Sorry

COMMAND = [sys.executable, "-m", "nanobragg_plugin.command_line.simulate"]
#: Pixels (fast, slow) and mm of the whole detector, as the preset has them.
SIZE, PIXEL_MM, DISTANCE_MM = (2463, 2527), 0.172, 300.0
#: Parts that a process must have made for its growth to be judged.
ENOUGH = 40
MB = 1e6
LEGEND = """\
Data sets: what an image takes of a process that simulates, and else: checksums, words between
processes, waiting. In the end: putting the file together. Growth: of a process, from the second
tenth of its parts to the last."""


def measure(
    images: int,
    processes: Sequence[int],
    small: float,
    options: dict[str, str],
    folder: Path,
    say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """The record of each number of processes, one after the other; small: part of the pixels."""
    for number in processes:
        say(f"data set: {images} images, {number} processes")
        with tempfile.TemporaryDirectory(dir=folder) as place:
            yield run_of(number, *made(images, number, small, options, Path(place)))


def made(
    images: int, processes: int, small: float, options: dict[str, str], place: Path
) -> tuple[dict[str, Any], float]:
    """Make a data set in a folder: its timings, and the seconds of the whole command."""
    edges = [max(8, round(edge * math.sqrt(small))) for edge in SIZE]
    corner = [-PIXEL_MM * edges[0] / 2, PIXEL_MM * edges[1] / 2, -DISTANCE_MM]
    panel = "geometry.detector.panel"
    words = [
        *("preset=pilatus_6m", "structure_factors.default_F=100", f"mp.nproc={processes}"),
        f"geometry.scan.image_range=1,{images}",
        *(f"compute.{name}={value}" for name, value in options.items()),
        *("output.timings=timings.json", "output.joined=True", "output.log=None"),
    ]
    if small < 1:
        words += [
            f"{panel}.image_size={edges[0]},{edges[1]}",
            f"{panel}.origin={','.join(f'{x:.6f}' for x in corner)}",
            "detector.gaps.module_size=None",
            "detector.gaps.width=None",
        ]
    start = time.perf_counter()
    done = subprocess.run([*COMMAND, *words], cwd=place, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Sorry(f"nanobragg.simulate failed: {lines[-1] if lines else done.returncode}")
    return json.loads((place / "timings.json").read_text()), seconds


def run_of(processes: int, timings: dict[str, Any], command_s: float) -> dict[str, Any]:
    """The record of a data set. Of an image, each in seconds of one process: simulating; writing
    (compression included); the rest, between parts (checksums, words between processes, waiting).
    ending_s: of the whole, putting the file together and all that is beside the images."""
    parts, images = timings["parts"], sum(map(images_of, timings["parts"]))
    by = itemgetter("process")
    crews = [
        sorted(one, key=itemgetter("began")) for _, one in groupby(sorted(parts, key=by), key=by)
    ]
    # the command's own process makes the first image, and if there are others no more
    workers = [crew for crew in crews if len(crew) > 1 or len(crews) == 1]
    spans = sum(crew[-1]["began"] + crew[-1]["seconds"] - crew[0]["began"] for crew in workers)
    theirs = [part for crew in workers for part in crew]
    busy, simulating = total(theirs, "seconds"), total(theirs, "simulating")
    last = max(part["began"] + part["seconds"] for part in parts)
    number = sum(map(images_of, theirs))
    return {
        "processes": processes,
        "images": images,
        "command_s": command_s,
        "making_s": timings["ended"] - timings["began"],
        "images_per_s": sum(
            sum(map(images_of, crew)) / (crew[-1]["began"] + crew[-1]["seconds"] - crew[0]["began"])
            for crew in workers
        ),
        "simulating_s": simulating / number,
        "writing_s": (busy - simulating) / number,
        "rest_s": (spans - busy) / number,
        "ending_s": timings["ended"] - last,
        "bytes": total(parts, "bytes") / images,
        "peak_mb": max(part["peak"] for part in theirs) / MB,
        "growth": [grown(crew) for crew in workers if len(crew) >= ENOUGH],
    }


def grown(crew: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How a process changed from the second tenth of its parts (in the first it warms up) to the
    last: MB, open files, and how many times as long an image takes."""
    tenth = len(crew) // 10
    early, late = crew[tenth : 2 * tenth], crew[-tenth:]

    def mean(name: str) -> tuple[float, float]:
        return tuple(statistics.fmean(part[name] or 0 for part in some) for some in (early, late))

    times = [
        statistics.median(part["seconds"] / images_of(part) for part in some)
        for some in (early, late)
    ]
    (memory, memory_late), (files, files_late) = mean("resident"), mean("open_files")
    return {
        "images": sum(map(images_of, crew)),
        "mb": (memory_late - memory) / MB,
        "open_files": files_late - files,
        "time_ratio": times[1] / times[0],
    }


def plan(record: dict[str, Any], images: int, nodes: int, cores: int) -> dict[str, float]:
    """What so many such images take on so many nodes, a process for each core: seconds, bytes, and
    what the shared disk must take; extrapolated."""
    a_process = record["simulating_s"] + record["writing_s"] + record["rest_s"]
    workers = nodes * cores
    seconds = math.ceil(images / workers) * a_process
    return {
        "images": images,
        "nodes": nodes,
        "cores": cores,
        "core_hours": images * a_process / 3600,
        "seconds": seconds,
        "bytes": images * record["bytes"],
        "bytes_per_s": images * record["bytes"] / seconds,
        "node_gb": cores * record["peak_mb"] / 1e3,
    }


def images_of(part: dict[str, Any]) -> int:
    return part["last"] - part["first"] + 1


def total(parts: Sequence[dict[str, Any]], name: str) -> float:
    return sum(part[name] for part in parts)


def report(records: Iterable[dict[str, Any]], of: tuple[int, int, int]) -> list[dict[str, Any]]:
    """The records with a plan each, printed as they come; of: its images, nodes and cores."""
    found: list[dict[str, Any]] = []
    print(f"\n{LEGEND}", flush=True)
    for record in records:
        found.append(record)
        record["plan"] = plan(record, *of)
        alone = found[0] if found[0]["processes"] == 1 else None
        print("\n".join(lines(record, alone)), flush=True)
    print("\n".join(plan_lines(found[-1]["plan"])), flush=True)
    return found


def lines(record: dict[str, Any], alone: dict[str, Any] | None) -> Iterator[str]:
    """A record as text; alone: that of one process."""
    yield (
        "{processes} process(es): {images} images, {images_per_s:.3g} a second; of an image "
        "{simulating_s:.3g} s simulating, {writing_s:.3g} s writing, {rest_s:.2g} s else".format(
            **record
        )
    )
    yield (
        "  {making_s:.1f} s in all, {ending_s:.2g} s of them in the end ({command_s:.1f} s the "
        "command), {0:.2f} MB an image, peak "
        "{peak_mb:.0f} MB a process".format(record["bytes"] / MB, **record)
    )
    for one in record["growth"]:
        yield (
            "  a process, over {images} images: {mb:+.1f} MB, {open_files:+.1f} open files, an "
            "image takes {time_ratio:.3f} times as long".format(**one)
        )
    if alone is not None and record["processes"] > 1:
        yield (
            f"  {record['images_per_s'] / alone['images_per_s']:.2f} times as many a second as one "
            f"process; the command, with all it takes to begin, "
            f"{alone['command_s'] / record['command_s']:.2f} times as fast"
        )


def plan_lines(found: dict[str, float]) -> Iterator[str]:
    """A plan as text."""
    yield (
        "extrapolated, not run: {images} such images on {nodes} nodes of {cores} cores: "
        "{core_hours:.0f} core hours, {0:.2g} hours; {1:.3g} TB, {2:.3g} GB/s to the shared disk; "
        "{node_gb:.0f} GB of memory a node".format(
            found["seconds"] / 3600, found["bytes"] / 1e12, found["bytes_per_s"] / 1e9, **found
        )
    )
