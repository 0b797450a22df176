"""nanobragg.benchmark's curves: what an image costs while one quantity varies over two decades.

Every point is a case like those of `benchmark_cases`, and is measured as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nanobragg_plugin.run import benchmark
from nanobragg_plugin.run import benchmark_cases as cases
from nanobragg_plugin.run.benchmark_report import number

EDGE = 512  # pixels of the base's square detector, along an edge
SIZE = 0.172  # mm, of a pixel of the base
VOLUME = math.prod(cases.CELL)  # cubic Angstrom, of the base's unit cell
#: Angstrom. Every cell has amplitudes to here: beyond the detector's corner, at 2.51 Angstrom.
D_MIN = 2.4


@dataclass(frozen=True)
class Point:
    """What is simulated; the defaults are the base, of which each curve varies one field.

    ncells: along each edge of a domain; cell_volume: cubic Angstrom.
    """

    pixels: int = EDGE**2
    phisteps: int = 10
    domains: int = 10
    sources: int = 1
    ncells: int = 100
    cell_volume: float = VOLUME

    @property
    def cell(self) -> tuple[float, float, float]:
        """Edges, Angstrom, of a cell of the base's shape with this volume."""
        factor = (self.cell_volume / VOLUME) ** (1 / 3)
        a, b, c = (factor * edge for edge in cases.CELL)
        return a, b, c

    @property
    def words(self) -> str:
        """Of nanoBragg.c's command line: the detector's area, the scan's range and the spectrum's
        stay as they are whatever varies."""
        edge = round(math.sqrt(self.pixels))
        a, b, c = self.cell
        words = (
            f"-distance 150 -detpixels {edge} -pixel {SIZE * EDGE / edge:.9g} -N {self.ncells} "
            f"-cell {a:.9g} {b:.9g} {c:.9g} 90 90 90 -phi 0 -osc 0.5 -phisteps {self.phisteps}"
        )
        if self.domains > 1:  # one is not turned
            words += f" -mosaic 0.1 -mosaic_domains {self.domains}"
        if self.sources > 1:  # nanoBragg.c takes 2 at least of a dispersion
            words += f" -dispersion 0.5 -dispsteps {self.sources}"
        return words


@dataclass(frozen=True)
class Curve:
    """name: of the field of Point that varies."""

    name: str
    what: str
    values: tuple[float, ...]

    def case(self, value: float) -> cases.Case:
        """The case of a point."""
        words = replace(Point(), **{self.name: value}).words
        return cases.Case(f"{self.name}={value:.6g}", self.what, words, gauss=True)


COUNTS = (1, 3, 10, 30, 100)
CURVES = {
    curve.name: curve
    for curve in (
        Curve(
            "pixels",
            "pixels on the same area",
            tuple(edge**2 for edge in (162, 280, EDGE, 887, 1619)),  # as near as squares come
        ),
        Curve("phisteps", "phi steps in the same 0.5 degrees", COUNTS),
        Curve("domains", "mosaic domains within 0.1 degrees", COUNTS),
        Curve("sources", "wavelengths over 0.5 %", COUNTS),
        Curve(
            "ncells",
            "unit cells along each edge of a domain",
            tuple(10 * count for count in COUNTS),
        ),
        Curve(
            "cell_volume",
            "cubic Angstrom of a unit cell, amplitudes to the same resolution",
            tuple(VOLUME * count / 10 for count in COUNTS),
        ),
    )
}
#: How many points are the upper decade, over which slopes are taken.
UPPER = 3
ALL = "all"

LEGEND = f"""\
Curves: one quantity varies, the rest stays: {EDGE} x {EDGE} pixels, gauss, N 100, 10 phi steps,
10 domains, 1 wavelength. s: best of an image, its process warm; MB: as peak MB of the cases.
slope: d log s/d log value over the upper decade. With compile=auto the smallest images may not
be worth compiling, which bends the lower decade."""


def check_names(given: list[str], parameter: str) -> tuple[str, ...]:
    """The curves that are asked for, in the order of CURVES; `Sorry` for a name of none."""
    names = cases.check_names(given, (*CURVES, ALL), parameter)
    return tuple(CURVES) if ALL in names else tuple(names)


def measure(
    names: tuple[str, ...], settings: benchmark.Settings, say: benchmark.Say
) -> Iterator[dict[str, Any]]:
    """The record of each curve; say: told what is being done."""
    # cold starts are of cases: here they would be of other code with every point
    settings = replace(settings, cold=False)
    for name in names:
        curve = CURVES[name]
        points = [measure_point(curve, value, settings, say) for value in curve.values]
        yield {"curve": name, "what": curve.what, "points": points, "slopes": slopes(points)}


def measure_point(
    curve: Curve, value: float, settings: benchmark.Settings, say: benchmark.Say
) -> dict[str, Any]:
    """Times and memory at a value: `runs`, one a kernel and number of threads."""
    point = replace(Point(), **{curve.name: value})
    cases.write_amplitudes(settings.folder, point.cell, D_MIN)
    record = benchmark.measure_case(curve.case(value), settings, None, say)
    if curve.name == "pixels":  # `small` leaves a part of them, in whole rows and columns
        value = record["steps"] // (point.phisteps * point.domains * point.sources)
    return {"value": value, "steps": record["steps"], "runs": record["runs"]}


def slopes(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """d log s/d log value over the upper decade, one a kernel and number of threads."""
    upper = points[-UPPER:]
    values = [point["value"] for point in upper]
    return [
        {
            "kernel": runs[0]["kernel"],
            "threads": runs[0]["threads"],
            "slope": slope(values, [run["best_s"] for run in runs]),
        }
        for runs in zip(*(point["runs"] for point in upper))
    ]


def slope(values: list[float], seconds: list[float]) -> float | None:
    """Of the line through the logarithms; None where values are alike, of a part of few pixels."""
    if min(values) == max(values):
        return None
    return float(np.polyfit(np.log(values), np.log(seconds), 1)[0])


def block(record: dict[str, Any]) -> str:
    """The lines of a curve: a table a number of threads."""
    lines = ["", f"{record['curve']}: {record['what']}"]
    for threads in sorted({run["threads"] for run in record["slopes"]}):
        lines += ["1 thread" if threads == 1 else f"{threads} threads", *_table(record, threads)]
    return "\n".join(lines)


def _table(record: dict[str, Any], threads: int) -> Iterator[str]:
    of_these = [run for run in record["slopes"] if run["threads"] == threads]
    kernels = [run["kernel"] for run in of_these]
    headings = [f"{kernel} {unit}" for unit in ("s", "MB") for kernel in kernels]
    yield _line(["value", "steps", *headings])
    for point in record["points"]:
        runs = [run for run in point["runs"] if run["threads"] == threads]
        seconds = [number(run["best_s"], ".3g") for run in runs]
        megabytes = [number(run["peak_mb"], ".0f") for run in runs]
        yield _line([f"{point['value']:.6g}", f"{point['steps']:.4g}", *seconds, *megabytes])
    yield _line(["slope", "", *(number(run["slope"], ".2f") for run in of_these)])


def _line(texts: list[str]) -> str:
    return " ".join(f"{text:>10}" for text in texts).rstrip()
