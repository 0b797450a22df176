# ruff: noqa: E402
"""What a command line of nanoBragg.c sets: which flag wins, headers before flags, the crystal."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import classic_helpers as classic
from libtbx.utils import Sorry
from scipy import stats

from nanobragg_plugin.adapters.classic.cell import cell_of
from nanobragg_plugin.adapters.classic.flags import parse
from nanobragg_plugin.adapters.classic.settings import Settings, settings_of
from nanobragg_plugin.adapters.classic.translate import Translated, translate
from nanobragg_plugin.constants import RTD


def settings(words: str, **header: object) -> Settings:
    return settings_of(parse(words.split()), header)


#: What every command line needs.
NEEDED = "-default_F 10 -detpixels 2 -cell 40 50 60 -oversample 1 -seed 1 "


def translated(words: str) -> Translated:
    return translate((NEEDED + words).split())


# ---- order


@pytest.mark.parametrize(
    "words, variable, expected",
    [
        ("-phi 3 -phi 4", "phi", 4 / RTD),
        ("-lambda 2 -energy 12398.42", "wavelength", 1e-10),
        ("-energy 12398.42 -lambda 2", "wavelength", 2e-10),
        ("-N 5 -Nb 2", "ncells", [5, 2, 5]),
        ("-Nb 2 -N 5", "ncells", [5, 5, 5]),
        ("-detsize 50 -detsize_s 20", "detsize", [0.05, 0.02]),
        ("-detsize_s 20 -detsize 50", "detsize", [0.05, 0.05]),
        ("-detpixels_f 7 -detpixels 9", "pixels", [9, 9]),
        ("-xtal_x 1 -xtalsize 2", "size_m", [0.002] * 3),
        ("-xtalsize 2 -xtal_y 1", "size_m", [0.002, 0.001, 0.002]),
        ("-hdivrange 4 -divergence 6", "hdivrange", 0.006),
        ("-divergence 6 -hdivrange 4", "hdivrange", 0.004),
        ("-divsteps 3 -vdivsteps 2", "vdivsteps", 2),
        ("-nonoise", "noise", False),
        ("-nonoise -noisefile n", "noise", True),
        ("-noisefile n -nonoise", "noise", False),
        ("-nopgm -pgmfile p", "pgm", True),
        ("-nopgm -pgmscale 2", "pgm", True),
        ("-pgmscale 2 -nopgm", "pgm", False),
        ("-nopolar -polar 0.5", "nopolar", False),
        ("-polar 0.5 -nopolar", "nopolar", True),
        ("-interpolate -nointerpolate", "interpolate", False),
        ("-round_xtal -gauss_xtal -square_xtal", "shape", "square"),
        ("-square_div -round_div", "round_div", True),
        ("-misset 1 2 3 -misset random", "misset", "random"),
        ("-misset random -misset 0 0 90", "misset", (0.0, 0.0, 90 / RTD)),
        ("-misset random -misset_seed 4", "misset", "random"),
        ("-xds -adxv", "convention", "adxv"),
        ("-xds -fdet_vector 1 0 0", "convention", "custom"),
        ("-fdet_vector 1 0 0 -xds", "convention", "xds"),
        ("-pix0_vector 1 0 0", "convention", "custom"),
        ("-pix0_vector_mm 1 2 3", "pix0", (0.001, 0.002, 0.003)),
        ("-distance 50", "pivot", "beam"),
        ("-distance 50 -close_distance 40", "pivot", "sample"),
        ("-close_distance 40 -distance 50", "pivot", "beam"),
        ("-pivot beam -ORGX 5", "pivot", "sample"),
        ("-ORGX 5 -pivot beam", "pivot", "beam"),
        ("-twotheta 5 -Xbeam 3", "pivot", "beam"),
        ("-Xbeam 3 -twotheta 5", "pivot", "sample"),
        ("-xds -mosflm", "pivot", "beam"),
        ("-twotheta 5 -twotheta_axis 0.6 0.8 0", "twotheta", 0.6 / RTD),
        ("-twotheta_axis 0.6 0.8 0 -twotheta 5", "twotheta", 5 / RTD),
        ("-detector_abs 300 -detector_abs inf", "mu", 0.0),
        ("-detector_abs inf -detector_thick 300", "thickness", 300e-6),
        ("-detector_thick 300 -detector_abs 0", "thickness", 0.0),
        ("-seed 3 -seed -4", "seed", -4),
    ],
)
def test_which_flag_wins(words: str, variable: str, expected: object) -> None:
    """(nanoBragg.c's parser goes through the words once, each sets its variables.)"""
    found = getattr(settings(words), variable)
    assert found == (
        expected if isinstance(expected, (str, list, bool)) else pytest.approx(expected)
    )


def test_vectors_may_come_in_any_order() -> None:
    flags = [f"-{name} {value}" for name, value in VECTORS.items()]
    for words in (" ".join(flags), " ".join(reversed(flags))):
        found = settings(words)
        assert found.convention == "custom" and found.vectors == {
            "fast": (0.0, 0.0, 2.0),
            "slow": (0.0, 3.0, 0.0),
            "normal": (1.0, 0.0, 0.0),
            "beam": (1.0, 0.1, 0.0),
            "e_vector": (0.0, 0.0, 1.0),
            "spindle": (0.0, 1.0, 0.0),
            "twotheta": (0.0, 0.0, 1.0),
        }


VECTORS = {
    "fdet_vector": "0 0 2",
    "sdet_vector": "0 3 0",
    "odet_vector": "1 0 0",
    "beam_vector": "1 0.1 0",
    "polar_vector": "0 0 1",
    "spindle_axis": "0 1 0",
    "twotheta_axis": "0 0 1",
}


def test_a_convention_after_vectors_overrides_them_and_says_so() -> None:
    plain, after = translated("-xds"), translated("-fdet_vector 0 0 -1 -xds")
    assert np.array_equal(plain.geometry.fast, after.geometry.fast)
    assert "overrides all vectors" in " ".join(after.settings.warnings)
    assert not plain.settings.warnings


# ---- headers of -img and -mask, which count before all flags


def test_headers_come_before_all_flags(tmp_cwd: Path) -> None:
    text = "PIXEL_SIZE=0.2;\nDISTANCE=45;\nWAVELENGTH=1.1;\nPHI=7;\nOSC_RANGE=0.5;\n"
    classic.smv("header.img", text=f"{text}BEAM_CENTER_X=1;\nBEAM_CENTER_Y=0.5;\n")
    classic.smv("mask.img", text="DISTANCE=99;\nBEAM_CENTER_Y=0.5;\nCLOSE_DISTANCE=30;\n")
    for words in ("-img header.img -distance 60 -phi 3", "-distance 60 -phi 3 -img header.img"):
        s = translate(f"-default_F 1 -cell 40 {words}".split()).settings
        assert s.distance == pytest.approx(0.06) and s.phi == 3 / RTD
        assert s.wavelength == pytest.approx(1.1e-10) and s.osc == 0.5 / RTD
        assert s.pixels == [12, 10] and s.pixel == pytest.approx(2e-4)
        assert s.detsize == pytest.approx([2.4e-3, 2e-3])
        assert (s.xbeam, s.ybeam) == pytest.approx((1e-3, 0.5e-3))
    alone = translate("-default_F 1 -cell 40 -pixel 0.2 -mask mask.img".split()).settings
    # DISTANCE is looked up in CLOSE_DISTANCE too; Y counts from the other edge, of the header's
    # pixels of 0.1 mm
    assert alone.distance == pytest.approx(0.03) and alone.close_distance == pytest.approx(0.03)
    assert alone.ybeam == pytest.approx(1.0e-3 - 0.5e-3)
    both = translate("-default_F 1 -cell 40 -img header.img -mask mask.img".split()).settings
    assert both.distance == pytest.approx(0.045) and both.close_distance == pytest.approx(0.03)


def test_a_negative_width_of_a_header_is_as_none(tmp_cwd: Path) -> None:
    classic.smv("header.img", text="OSC_RANGE=-1;\n")
    found = translate("-default_F 1 -cell 40 -img header.img".split())
    assert found.settings.osc is None and found.phi.count == 1


@pytest.mark.parametrize(
    "line, mend, message",
    [
        ("PIXEL_SIZE=0;", "-pixel 0.1", "-pixel .or the header of -img or -mask. is 0 mm"),
        ("PIXEL_SIZE=-1;", "-pixel 0.1", "is -1 mm"),
        ("WAVELENGTH=0;", "-lambda 1", "-lambda .or the header .* is 0 Angstrom"),
        ("WAVELENGTH=1e300;", "-energy 9000", r"is 1e\+300 Angstrom"),
        ("DISTANCE=0;", "-distance 60", "the detector's plane goes through the crystal"),
        ("CLOSE_DISTANCE=1e30;", "-close_distance 60", "-distance .* is 1e.33 mm|is 1e.30 mm"),
    ],
)
@pytest.mark.parametrize("flag", ["-img", "-mask"])
def test_what_a_header_has_wrong_a_flag_mends(
    flag: str, line: str, mend: str, message: str, tmp_cwd: Path
) -> None:
    classic.smv("header.img", text=f"{line}\n")
    words = f"-default_F 1 -cell 40 {flag} header.img"
    with pytest.raises(Sorry, match=message):
        translate(words.split())
    assert translate(f"{words} {mend}".split()).geometry.n_fast == 12


# ---- -misset random


def rotation(seed: int) -> np.ndarray:
    """The turn of a random orientation: a cube's a, b, c before it are along x, y, z."""
    s = settings("-cell 1 -misset random")
    return cell_of(s, seed).real.T


def test_random_orientations_are_uniform() -> None:
    """Of the Haar measure of rotations: the trace has mean 0 and mean square 1 (it is a character),
    the angle the density (1 - cos)/pi, each element is uniform from -1 to 1. Tests of 800 seeds
    at a level of 0.1 % (9 elements: 0.01 %)."""
    turns = np.array([rotation(seed) for seed in range(1, 801)])
    assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(turns), 1)
    trace = turns.trace(axis1=1, axis2=2)
    error = 3.3 / math.sqrt(len(turns))
    assert abs(trace.mean()) < error
    # E[trace^4] = 3 (the square's square counts 3 pairings), so var(trace^2) = 3 - 1
    assert abs((trace**2).mean() - 1) < error * math.sqrt(2)
    angle = np.arccos(np.clip((trace - 1) / 2, -1, 1))
    assert stats.kstest(angle, lambda x: (x - np.sin(x)) / np.pi).pvalue > 1e-3
    for i in range(3):
        for j in range(3):
            assert stats.kstest(turns[:, i, j], stats.uniform(-1, 2).cdf).pvalue > 1e-4


def test_random_orientation_by_its_seed() -> None:
    assert np.array_equal(rotation(5), rotation(5)) and not np.allclose(rotation(5), rotation(6))
    by_seed = [
        translated(f"-misset random {words}").cell.real
        for words in ("-seed 5", "-misset_seed 5 -seed 9", "-seed 9 -misset_seed 5", "-seed 9")
    ]
    assert np.array_equal(by_seed[0], by_seed[1]) and np.array_equal(by_seed[1], by_seed[2])
    assert not np.allclose(by_seed[2], by_seed[3])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_printed_angles_make_the_same_pixels(seed: int, tmp_cwd: Path) -> None:
    """They have six decimals: photons differ by 1.5e-7 of the brightest at worst (12 seeds)."""
    classic.place_inputs()
    first = classic.run(*classic.words(f"-misset random -misset_seed {seed}"))
    (line,) = (x for x in first.stdout.splitlines() if "random orientation" in x)
    angles = " ".join(line.split("-misset ")[1].split()[:3])
    second = classic.run(*classic.words(f"-misset {angles}"))
    one, other = (np.frombuffer(x.files["floatimage.bin"], "<f4") for x in (first, second))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * one.max())


# ---- the crystal


@pytest.mark.parametrize(
    "words, cell",
    [
        ("40", (40, 40, 40, 90, 90, 90)),
        ("40 50", (40, 50, 40, 90, 90, 90)),
        ("40 50 60", (40, 50, 60, 90, 90, 90)),
        ("40 50 60 80", (40, 50, 60, 80, 90, 90)),
        ("40 50 60 90 100", (40, 50, 60, 90, 100, 90)),
    ],
)
def test_numbers_left_out_of_the_cell(words: str, cell: tuple) -> None:
    """b and c are a, angles 90; with one angle not 90 the cell is what was asked for."""
    from cctbx.uctbx import unit_cell

    a, b, c = settings_cell(words)
    found = (a @ a, b @ b, c @ c, a @ b, a @ c, b @ c)
    assert found == pytest.approx(unit_cell(cell).metrical_matrix(), abs=1e-8)


def settings_cell(words: str) -> np.ndarray:
    return cell_of(settings(f"-cell {words}"), 1).real


@pytest.mark.parametrize(
    "angles",
    [
        "120 120 120",
        "170 170 170",
        "10 10 170",
        "90 90 180",
        "270 90 90",
        "200 200 90",
        "60 60 120",
    ],
)
def test_angles_of_no_cell(angles: str) -> None:
    with pytest.raises(Sorry, match=f"-cell 40 40 40 {angles}: no cell has these angles"):
        translated(f"-cell 40 40 40 {angles}")
