# ruff: noqa: E402
"""The steps that follow from a command line of nanoBragg.c, given or not.

All figures are those that the C program (upstream, commit 455534a) printed for these flags.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

from nanobragg_plugin.adapters.classic.translate import Translated, translate
from nanobragg_plugin.constants import RTD

#: What every command line needs.
NEEDED = "-default_F 10 -detpixels 2 -cell 40 50 60 -oversample 1 -seed 1 "


def translated(words: str) -> Translated:
    return translate((NEEDED + words).split())


@pytest.mark.parametrize(
    "words, phi, end",
    [
        ("", [0], 0),
        ("-osc 1", [0, 0.5], 1),
        ("-osc 0", [0, 0], 0),
        ("-phistep 0.3", [0, 0.3], 0.3),
        ("-phisteps 4", [0, 0.25, 0.5, 0.75], 1),
        ("-phisteps 0", [0], 1),
        ("-phisteps -1", [0], 0),
        ("-osc 1 -phistep 0.3", [0, 0.3, 0.6, 0.9], 1),
        ("-osc 1 -phisteps 4", [0, 0.25, 0.5, 0.75], 1),
        ("-osc 1 -phisteps 0", [0], 1),
        ("-phistep 0.3 -phisteps 4", [0, 0.3], 0.3),
        ("-osc 1 -phistep 0.2 -phisteps 3", [0, 0.2, 0.4], 1),
        ("-phistep 0", [0], 0),
        ("-osc 1 -phistep 0", [0, 0.5], 1),
        ("-osc 1 -phistep 0 -phisteps 3", [0, 0, 0], 1),
        ("-phi 5 -osc 2 -phisteps 2", [5, 6], 7),
    ],
)
def test_phi(words: str, phi: list[float], end: float) -> None:
    found = translated(words)
    first = found.settings.phi
    angles = [(first + found.phi.step * k) * RTD for k in range(found.phi.count)]
    assert angles == pytest.approx(phi) and (first + found.phi.width) * RTD == pytest.approx(end)


@pytest.mark.parametrize(
    "words, mrad",
    [
        ("", [0]),
        ("-hdivrange 4", [-2, 2]),
        ("-hdivstep 3", [-1.5, 1.5]),
        ("-hdivsteps 4", [-500, -250, 0, 250]),
        ("-hdivrange 4 -hdivstep 1.5", [-2, -0.5, 1]),
        ("-hdivrange 4 -hdivsteps 3", [-2, 0, 2]),
        ("-hdivrange 4 -hdivsteps 1", [-2, 2]),
        ("-hdivrange 4 -hdivsteps 0", [-2, 2]),
        ("-hdivstep 3 -hdivsteps 5", [-1.5, 1.5]),
        ("-hdivrange 4 -hdivstep 1.5 -hdivsteps 2", [-2, -0.5]),
        ("-hdivrange 0 -hdivsteps 3", [0]),
        ("-hdivrange 4 -hdivstep 0", [-2, 2]),
        ("-hdivstep 0 -hdivsteps 2", [-500, 0]),
    ],
)
def test_divergence(words: str, mrad: list[float]) -> None:
    for turned in (words, words.replace("-h", "-v")):
        found = translated(f"{turned} -square_div")
        horizontal, vertical = zip(*found.spread.directions)
        along, across = (horizontal, vertical) if turned == words else (vertical, horizontal)
        assert [1e3 * angle for angle in along] == pytest.approx(mrad) and not any(across)
        radian = "the divergence is 1 radian" in " ".join(found.settings.warnings)
        assert radian == (max(map(abs, mrad)) == 500)


@pytest.mark.parametrize(
    "words, number",
    [
        ("-divergence 4", 4),
        ("-divergence 4 -divsteps 3", 5),
        ("-divergence 4 -divsteps 4", 12),
        ("-divergence 4 -divsteps 5", 13),
        ("-divergence 4 -divsteps 3 -square_div", 9),
        ("-divergence 4 -divsteps 4 -square_div", 16),
        ("-hdivrange 4 -vdivrange 2 -divsteps 6", 24),
    ],
)
def test_directions_within_the_ellipse(words: str, number: int) -> None:
    assert len(translated(words).spread.directions) == number


@pytest.mark.parametrize(
    "words, wavelengths",
    [
        ("", [1]),
        ("-dispersion 2", [0.99, 1.01]),
        ("-dispsteps 3", [1]),
        ("-dispersion 2 -dispsteps 3", [0.99, 1, 1.01]),
        ("-dispersion 2 -dispsteps 1", [0.99, 1.01]),
        ("-dispersion 0 -dispsteps 3", [1]),
    ],
)
def test_dispersion(words: str, wavelengths: list[float]) -> None:
    offsets = translated(words).spread.dispersion.offsets
    assert [1 + offset for offset in offsets] == pytest.approx(wavelengths)


@pytest.mark.parametrize(
    "words, layers, mu",
    [
        ("", [0], 0),
        ("-detector_abs 100", [0], 0),
        ("-thicksteps 3", [0], 0),
        ("-detector_thick 0 -detector_thicksteps 3", [0], 0),
        ("-detector_thick 300", [0, 150], 1e6 / 300),
        ("-detector_thick 300 -detector_abs 100", [0, 150], 1e4),
        ("-detector_thick 300 -detector_thicksteps 0", [0, 150], 1e6 / 300),
        ("-detector_thick 300 -detector_thicksteps 1", [0, 300], 1e6 / 300),
        ("-detector_thick 300 -detector_thicksteps 3", [0, 150, 300], 1e6 / 300),
    ],
)
def test_sensor(words: str, layers: list[float], mu: float) -> None:
    """Micrometres; no layers here where the C program has one of no thickness."""
    step, count, absorption = translated(words).sensor
    assert [step * k * 1e6 for k in range(max(count, 1))] == pytest.approx(layers)
    assert (count > 0) == (len(layers) > 1) and absorption == pytest.approx(mu)


@pytest.mark.parametrize(
    "words, domains, degrees",
    [
        ("", 1, 0),
        ("-mosaic 1", 10, 1),
        ("-mosaic_domains 5", 1, 0),
        ("-mosaic 1 -mosaic_domains 5", 5, 1),
        ("-mosaic 0 -mosaic_domains 5", 1, 0),
        ("-mosaic 1 -mosaic_domains -2", 10, 1),
        ("-mosaic 1 -mosaic_domains 1", 1, 1),
    ],
)
def test_mosaic(words: str, domains: int, degrees: float) -> None:
    spread, count = translated(words).mosaic
    assert (spread * RTD, count) == pytest.approx((degrees, domains))


@pytest.mark.parametrize(
    "words, cells",
    [
        ("", (1, 1, 1)),
        ("-N 5", (5, 5, 5)),
        ("-Na 3 -Nc 4", (3, 1, 4)),
        ("-N 0", (1, 1, 1)),
        ("-xtalsize 0.00002", (5, 4, 4)),
        ("-xtal_x 0.00002 -N 3", (5, 3, 3)),
        ("-xtalsize 0.00002 -beamsize 0.00001", (5, 2, 2)),
        ("-xtalsize 0.00001 -N 9", (3, 2, 2)),
        ("-xtal_z 0 -Nc 4", (1, 1, 4)),
        ("-xtal_x 1e-9", (1, 1, 1)),
    ],
)
def test_cells_of_a_domain(words: str, cells: tuple[int, ...]) -> None:
    assert translated(words).ncells == cells


@pytest.mark.parametrize(
    "words, cells, oversample",
    [
        ("-cell 30 80 30 -misset 0 90 0 -xtalsize 0.00003", (11, 4, 11), 1),
        ("-cell 60 50 40 -misset 10 20 30 -xtalsize 0.00003", (5, 7, 8), 2),
        ("-cell 50 60 60 -misset 10 20 30 -xtalsize 0.00005", (10, 9, 9), 2),
        ("-cell 60 25 25 -misset 0 90 0 -xtalsize 0.00005", (9, 20, 20), 2),
        ("-cell 100 10 10 -xtalsize 0.00003 -pixel 0.172", (4, 31, 31), 3),
        ("-cell 50 30 25 -lambda 1.5 -distance 50 -pixel 0.2 -N 20", (20, 20, 20), 8),
    ],
)
def test_what_the_last_bit_decides(words: str, cells: tuple[int, ...], oversample: int) -> None:
    """Sizes that are whole numbers of cells, but for rounding as it is in the C program."""
    found = translated(f"-oversample 0 {words}")
    assert (found.ncells, found.oversample) == (cells, oversample)


@pytest.mark.parametrize(
    "words, oversample",
    [
        ("-N 5", 1),
        ("-N 40", 8),
        ("-N 40 -distance 500", 2),
        ("-N 40 -pixel 0.2", 15),
        ("-N 40 -lambda 2", 4),
        ("-N 40 -oversample 2", 2),
        ("-N 40 -oversample -3", 8),
    ],
)
def test_oversampling(words: str, oversample: int) -> None:
    assert translated(f"-oversample 0 {words}").oversample == oversample


@pytest.mark.parametrize(
    "words, fluence",
    [
        ("", 125932015286227086360700780544.0),
        ("-fluence 3e20", 3e20),
        ("-flux 1e12", 1e20),
        ("-flux 1e12 -exposure 2", 2e20),
        ("-flux 1e12 -exposure 2 -beamsize 0.05", 8e20),
        ("-flux 0 -exposure 2", 125932015286227086360700780544.0),
        ("-flux 1e12 -fluence 3e20", 1e20),
    ],
)
def test_fluence(words: str, fluence: float) -> None:
    assert translated(words).fluence == pytest.approx(fluence)
