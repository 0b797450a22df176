"""The work that nanobragg.benchmark times: command lines of nanoBragg.c, and what they mean here.

A case is a command line, so that the C program and this one do the same work by construction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.classic import exact
from nanobragg_plugin.adapters.classic.translate import Translated, translate
from nanobragg_plugin.adapters.params import Plan
from nanobragg_plugin.models import Experiment, Exposure, SimulationOptions
from nanobragg_plugin.sampling import steps_per_pixel
from nanobragg_plugin.structure_factors import StructureFactors

CELL = (79.1, 79.1, 38.4)  # Angstrom; lysozyme's, right angles
D_MIN = 1.8  # Angstrom
B_FACTOR = 20.0  # square Angstrom, of the amplitudes' falloff
#: Electrons: the root mean square amplitude at d = infinity, of 8000 atoms of some 6.7 electrons.
F_RMS = 600.0
#: The file of amplitudes in the folder of a run.
HKL = "P1.hkl"

COMMON = (
    f"-hkl {HKL} -cell {CELL[0]} {CELL[1]} {CELL[2]} 90 90 90 -misset 10 20 30 -lambda 0.9795 "
    "-pixel 0.172 -oversample 1 -nointerpolate -seed 1 -nonoise -nopgm"
)
SQUARE = "-distance 150 -detpixels 1024"
SCAN = "-phi 0 -osc 0.5 -phisteps 10"
MOSAIC = "-mosaic 0.1 -mosaic_domains 10"
PILATUS = "-distance 300 -detpixels_f 2463 -detpixels_s 2527 -phi 0 -osc 0.1 -phisteps 10 " + MOSAIC


@dataclass(frozen=True)
class Case:
    """words: of nanoBragg.c's command line, after COMMON; gauss: whether our domains are `gauss`
    and nanoBragg.c runs with -gauss_xtal: the same work a step, other pixels."""

    name: str
    what: str
    words: str
    gauss: bool = False

    @property
    def our_words(self) -> list[str]:
        """The command line that is translated."""
        return f"{COMMON} {self.words}".split()

    @property
    def c_words(self) -> list[str]:
        """The command line that nanoBragg.c is run with."""
        return [*self.our_words, *(["-gauss_xtal"] if self.gauss else [])]


CASES = {
    case.name: case
    for case in (
        Case("B1", "1024 x 1024, square, N 30, 10 phi steps", f"{SQUARE} -N 30 {SCAN}"),
        Case("B2", "B1 with 10 mosaic domains", f"{SQUARE} -N 30 {SCAN} {MOSAIC}"),
        Case(
            "B3",
            "2527 x 2463, square, N 50, 10 phi steps",
            f"-distance 150 -detpixels_f 2527 -detpixels_s 2463 -N 50 {SCAN}",
        ),
        Case(
            "B4",
            "1024 x 1024, square, N 30, still, 100 wavelengths over 0.5 %",
            f"{SQUARE} -N 30 -dispersion 0.5 -dispsteps 100",
        ),
        Case("B5", "B2 with gauss", f"{SQUARE} -N 30 {SCAN} {MOSAIC}", gauss=True),
        Case(
            "production",
            "PILATUS 6M, gauss, N 100, 10 phi steps, 10 domains",
            f"{PILATUS} -N 100",
            gauss=True,
        ),
        Case("production_1000", "the same with N 1000", f"{PILATUS} -N 1000", gauss=True),
    )
}
#: The case of which the sweep's images are, and what it is called itself.
SWEEP_OF, SWEEP = CASES["production"], "sweep"
NAMES = (*CASES, SWEEP)


@dataclass(frozen=True)
class Work:
    """A case as the core takes it; steps: pixels x sources x phi steps x domains."""

    experiment: Experiment
    exposure: Exposure
    structure_factors: StructureFactors
    options: SimulationOptions
    steps: int


def work(case: Case, folder: Path, small: float, options: dict, parity: bool = False) -> Work:
    """A case with the amplitudes in `folder`; options: fields of SimulationOptions that are not
    the command line's; parity: with nanoBragg.c's carryover, to compare the pixels."""
    mode = "c-parity" if parity else "spec"
    translated, plan = planned(case, folder, small, mode)
    exposure = exact.exposure_of(translated, plan)
    experiment = plan.experiment_of_image(0)
    return Work(
        experiment,
        exposure,
        plan.structure_factors,
        replace(plan.options, **options),
        translated.n_pixels * steps_per_pixel(experiment, plan.options, len(exposure.phi)),
    )


def planned(case: Case, folder: Path, small: float, mode: str = "spec") -> tuple[Translated, Plan]:
    """The command line translated, and its plan with our shape of the domains."""
    words = [str(folder / HKL) if word == HKL else word for word in case.our_words]
    words += ["-phi_carryover_mode", mode, *roi_words(case, small)]
    translated = translate(words)
    plan = exact.plan_of(translated)
    if case.gauss:
        crystal = replace(plan.experiment.crystal, xtal_shape="gauss")
        plan = replace(plan, experiment=replace(plan.experiment, crystal=crystal))
    return translated, plan


def roi_words(case: Case, small: float) -> list[str]:
    """-roi of a part of the detector's pixels; nothing where that is all of them."""
    if small >= 1:
        return []
    bounds = []
    for pixels in shape_of(case)[::-1]:
        size = max(1, round(math.sqrt(small) * pixels))
        first = round(0.75 * (pixels - size))  # away from the beam, where there are few spots
        bounds += [str(first), str(first + size - 1)]
    return ["-roi", *bounds]


def shape_of(case: Case) -> tuple[int, int]:
    """(slow, fast) of its image."""
    words = case.our_words
    if "-detpixels" in words:
        both = int(words[words.index("-detpixels") + 1])
        return both, both
    fast, slow = (int(words[words.index(flag) + 1]) for flag in ("-detpixels_f", "-detpixels_s"))
    return slow, fast


def one_pixel_words(case: Case, small: float) -> list[str]:
    """-roi of the first pixel alone: with it a run costs what reading and writing cost."""
    roi = roi_words(case, small) or ["-roi", "0", "", "0", ""]
    return ["-roi", roi[1], roi[1], roi[3], roi[3]]


def amplitudes(
    cell: tuple[float, float, float] = CELL, d_min: float = D_MIN
) -> tuple[np.ndarray, np.ndarray]:
    """Indices [n, 3] of all reflections to d_min but 000, and amplitudes [n], electrons, of a cell
    with right angles; cell, d_min: Angstrom.

    Intensities follow Wilson's acentric distribution about a mean that falls by B_FACTOR; Friedel
    mates are alike. Always the same ones: numpy promises RandomState's numbers.
    """
    limits = [int(edge / d_min) for edge in cell]
    axes = [np.arange(-limit, limit + 1) for limit in limits]
    indices = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    stol_sqr = ((indices / np.array(cell)) ** 2).sum(1) / 4
    # the first half, in the order of the box, holds one of each pair of mates; the middle is 000
    half = len(indices) // 2
    uniform = np.random.RandomState(20).random_sample(half)
    spread = np.sqrt(-np.log1p(-uniform))
    spread = np.concatenate([spread, [0.0], spread[::-1]])
    kept = (stol_sqr <= 1 / (4 * d_min**2)) & (indices != 0).any(1)
    amplitude = F_RMS * spread * np.exp(-B_FACTOR * stol_sqr)
    return indices[kept], amplitude[kept]


def write_amplitudes(
    folder: Path, cell: tuple[float, float, float] = CELL, d_min: float = D_MIN
) -> None:
    """The amplitudes as nanoBragg.c reads them: lines of h k l F."""
    indices, values = amplitudes(cell, d_min)
    lines = [f"{h} {k} {l} {F:.3f}\n" for (h, k, l), F in zip(indices.tolist(), values.tolist())]
    (folder / HKL).write_text("".join(lines))


def check_names(given: list[str], possible: tuple[str, ...], parameter: str) -> list[str]:
    """Names that were given, with commas or spaces between them, in the order of `possible`;
    `Sorry` unless each is one of these."""
    names = [name for text in given or [] for name in text.replace(",", " ").split()]
    for name in names:
        if name not in possible:
            raise Sorry(f"{parameter}={name}: choose from {', '.join(possible)}")
    if not names:
        raise Sorry(f"{parameter} names nothing: choose from {', '.join(possible)}")
    return [name for name in possible if name in names]


def largest_difference(image: np.ndarray, other: np.ndarray) -> float | None:
    """max |image - other| / max |other|; None of an `other` that is 0."""
    scale = float(np.abs(other).max(initial=0.0))
    worst = float(np.abs(np.asarray(image, float) - np.asarray(other, float)).max(initial=0.0))
    return worst / scale if scale else None
