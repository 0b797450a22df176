"""The bytes of nanoBragg.c's files against those it wrote itself (data/classic, data/golden)."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import golden
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nanobragg_plugin.format import classic_files as cf

CLASSIC = Path(__file__).parent / "data" / "classic"
SHAPE = (14, 20)
ADC = 12.75
#: The runs of data/classic: region of interest, -scale, -pgmscale (0: not given), and what
#: nanoBragg.c printed: max_I, mean, rms, rmsd, scales, overloads (in data/classic/README.md).
RUNS = {
    "mask": (
        ((1, 17, 2, 30), 0.0, 0.0),
        ("18197.8", "279.74", "1640.56", "1537.22", "3.02234", "0.0325263", 0),
    ),
    "scales": (
        (None, 1.7, 0.004),
        ("132975", "711.143", "8217.52", "8186.58", "1.7", "0.004", 1),
    ),
}
PIXEL, HALF = 0.4, 0.2
#: The header of most golden cases (cases.json), from their command line: 96 x 96 pixels of 0.4 mm
#: at 100 mm, the beam in the middle of MOSFLM's detector; conventions as nanoBragg.c's usage has.
STILL = cf.SmvHeader(
    fast_pixels=96,
    slow_pixels=96,
    pixel_size_mm=PIXEL,
    distance_mm=100.0,
    close_distance_mm=100.0,
    wavelength_ang=0.9795,
    beam_center_mm=(19.4, 19.4),
    adxv_center_mm=(19.4 + HALF, 96 * PIXEL - 19.4 - HALF),
    mosflm_center_mm=(19.4, 19.4),
    denzo_beam_mm=(19.4 + HALF, 19.4 + HALF),
    dials_origin_mm=(-19.6, 19.6, -100.0),
    xds_org=(49.5, 49.5),
    phi_deg=0.0,
    osc_deg=0.0,
    twotheta_deg=0.0,
)
#: nanoBragg.c's of a PILATUS 6M (data/classic/README.md): 518 bytes of text.
PILATUS = cf.SmvHeader(
    fast_pixels=2463,
    slow_pixels=2527,
    pixel_size_mm=0.172,
    distance_mm=231.27466,
    close_distance_mm=231.27187,
    wavelength_ang=0.9768,
    beam_center_mm=(217.742295, 213.90708),
    adxv_center_mm=(217.888, 219.601),
    mosflm_center_mm=(214.957, 217.802),
    denzo_beam_mm=(215.043, 217.888),
    dials_origin_mm=(-230.192, 216.343, 216.476),
    xds_org=(1266.44, 1244.15),
    phi_deg=0.0,
    osc_deg=0.1,
    twotheta_deg=0.0,
)


def floats(run: str) -> np.ndarray:
    return np.fromfile(CLASSIC / f"{run}_float.bin", "<f4").reshape(SHAPE)


def pixels(name: str) -> np.ndarray:
    """The pixels of an SMV file of data/classic whose header has 512 bytes."""
    return np.frombuffer((CLASSIC / name).read_bytes()[512:], "<u2").reshape(SHAPE)


def rendered(run: str) -> np.ndarray | None:
    return pixels("mask.img") != 0 if run == "mask" else None


@pytest.mark.parametrize("run", RUNS)
def test_statistics_are_those_printed(run: str) -> None:
    (roi, scale, grey), (max_I, mean, rms, rmsd, int_scale, pgm_scale, _) = RUNS[run]
    found = cf.statistics(floats(run), roi, rendered(run))
    assert [f"{x:g}" for x in (found.max_I, found.mean, found.rms, found.rmsd)] == [
        max_I,
        mean,
        rms,
        rmsd,
    ]
    # printed in metres, at the middle of the 2.5 mm pixel: "0.02375 0.02375", "0.02375 0.03375"
    assert found.max_at == {"mask": (9, 9), "scales": (9, 13)}[run]
    found_scale = cf.intfile_scale(scale, found.max_I)
    assert f"{found_scale:g}" == int_scale
    assert f"{cf.pgm_scale(grey, found.rmsd, found_scale):g}" == pgm_scale


@pytest.mark.parametrize("run", RUNS)
def test_files_are_byte_for_byte_those_of_the_c_program(run: str) -> None:
    (roi, scale, grey), (*_, overloads) = RUNS[run]
    image = floats(run)
    assert cf.float_bytes(image) == (CLASSIC / f"{run}_float.bin").read_bytes()
    assert np.array_equal(cf.scaled_integers(image, scale, ADC, roi), pixels(f"{run}_int.img"))
    statistics = cf.statistics(image, roi, rendered(run))
    grey = cf.pgm_scale(grey, statistics.rmsd, cf.intfile_scale(scale, statistics.max_I))
    assert cf.pgm_bytes(image, grey, roi) == (CLASSIC / f"{run}_image.pgm").read_bytes()
    # the photons that it drew: whole numbers, of which 12.75 more lost its fraction
    noise = pixels(f"{run}_noise.img")
    drawn = np.where(noise == 65535, image, noise.astype(np.float64) - math.floor(ADC))
    found, number = cf.noise_integers(drawn, ADC, roi)
    assert np.array_equal(found, noise) and number == overloads


@pytest.mark.parametrize("case", golden.listed(), ids=lambda case: case["name"])
def test_integers_of_the_golden_images(case: dict) -> None:
    """Every pixel of every image is equal, those outside -roi included."""
    with np.load(golden.GOLDEN / f"{case['name']}.npz") as stored:
        image, expected = stored["float_image"], stored["int_image"]
    roi = re.search(r"-roi (\d+) (\d+) (\d+) (\d+)", case["args"])
    window = tuple(map(int, roi.groups())) if roi else None
    assert np.array_equal(cf.scaled_integers(image, 0.0, 40.0, window), expected)


def test_half_is_added_before_the_sum_becomes_float32() -> None:
    """40000.4985: C's floorf(test + 0.5) of it is 40001 (tried with gcc), though nearest is 40000:
    40000.9985 is nearer to 40001 than to 40000.99609375, the float32 below."""
    one = np.ones((1, 1), np.float32)
    assert cf.scaled_integers(one, 40000.4985, 0.0).tolist() == [[40001]]
    assert cf.scaled_integers(one, 65535.3, 0.0).tolist() == [[65535]]


def test_blank_image() -> None:
    blank = np.zeros((2, 3), np.float32)
    statistics = cf.statistics(blank)
    assert statistics == cf.Statistics(0.0, None, 0.0, 0.0, 0.0)
    assert cf.intfile_scale(0.0, statistics.max_I) == 1.0
    assert cf.pgm_scale(0.0, statistics.rmsd, 1.0) == 1.0
    assert (cf.scaled_integers(blank, 0.0, 40.0) == 40).all()
    nothing = np.zeros((2, 3), bool)
    assert cf.statistics(blank, None, nothing) == statistics


@given(roi=st.tuples(*[st.integers(-3, 9)] * 4))
def test_region_of_interest(roi: cf.Roi) -> None:
    """Pixels are in it exactly where nanoBragg.c's test lets them be, one by one."""
    fast_min, fast_max, slow_min, slow_max = roi
    image = np.full((5, 7), 2.0, np.float32)
    expected = [
        [3 if fast_min <= f <= fast_max and slow_min <= s <= slow_max else 0 for f in range(7)]
        for s in range(5)
    ]
    assert cf.scaled_integers(image, 1.0, 1.0, roi).tolist() == expected
    assert cf.noise_integers(image.astype(float), 1.0, roi)[0].tolist() == expected
    assert cf.pgm_bytes(image, 1.5, roi)[-35:] == bytes(np.array(expected, np.uint8).reshape(-1))


@given(image=arrays(np.float32, (3, 4), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_nothing_wraps(image: np.ndarray) -> None:
    """Beyond the types' ends everything stays at the ends."""
    counts = cf.scaled_integers(image, 1.0, 0.0)
    noise, overloads = cf.noise_integers(image.astype(np.float64), 0.0)
    grey = np.frombuffer(cf.pgm_bytes(image, 1.0)[-12:], np.uint8).reshape(3, 4)
    assert ((counts == 65535) == (image >= 65534.5)).all() and (counts[image < 0.49] == 0).all()
    assert overloads == (image > 65535).sum() and (noise[image < 1] == 0).all()
    assert ((grey == 255) == (image >= 255)).all() and (grey[image < 1] == 0).all()


@pytest.mark.parametrize("name", ["still_square", "phi_from_thirty", "phi_through_zero"])
def test_header_of_the_golden_images(name: str) -> None:
    case = golden.cases()[name]
    given = dict(zip(case.words, case.words[1:]))
    phi, osc = (float(given.get(flag, 0)) for flag in ("-phi", "-osc"))
    found = cf.smv_header(replace(STILL, phi_deg=phi, osc_deg=osc))
    assert found == (case.header + "\f").encode().ljust(512)


def test_header_too_long_for_512_bytes_says_so() -> None:
    text = (CLASSIC / "pilatus_header.txt").read_bytes()
    assert len(text) == 518 and text.startswith(b"{\nHEADER_BYTES=512;\n")
    expected = text.replace(b"512", b"1024", 1)
    assert cf.smv_header(PILATUS) == expected.ljust(1024)


NUMBERS = st.floats(-1e30, 1e30)


@st.composite
def headers(draw: st.DrawFn) -> cf.SmvHeader:
    """Any numbers, few pixels."""
    one = {name: draw(NUMBERS) for name in vars(STILL) if isinstance(vars(STILL)[name], float)}
    several = {
        name: tuple(draw(NUMBERS) for _ in value)
        for name, value in vars(STILL).items()
        if isinstance(value, tuple)
    }
    size = {name: draw(st.integers(1, 9)) for name in ("fast_pixels", "slow_pixels")}
    return cf.SmvHeader(**one, **several, **size)


@pytest.mark.dials
@given(header=headers())
def test_dxtbx_reads_the_header_and_the_pixels(header: cf.SmvHeader, tmp_path_factory) -> None:
    """Whatever its length; dxtbx's own parser of the text, six digits of every number."""
    FormatSMV = pytest.importorskip("dxtbx.format.FormatSMV").FormatSMV
    path = tmp_path_factory.mktemp("smv") / "image_001.img"
    n_fast, n_slow = header.fast_pixels, header.slow_pixels
    image = np.arange(n_fast * n_slow, dtype=np.uint16).reshape(n_slow, n_fast) * 800
    path.write_bytes(cf.smv_bytes(header, image))
    size, words = FormatSMV.get_smv_header(str(path))
    assert size == int(words["HEADER_BYTES"]) in (512, 1024)
    assert np.array_equal(np.frombuffer(path.read_bytes()[size:], "<u2"), image.reshape(-1))
    for key, value in (
        ("DISTANCE", header.distance_mm),
        ("DENZO_Y_BEAM", header.denzo_beam_mm[1]),
        ("CLOSE_DISTANCE", header.close_distance_mm),
        ("OSC_START", header.phi_deg),
    ):
        assert float(words[key]) == pytest.approx(value, rel=5.1e-6)
    x, y, z = (float(word) for word in words["DIALS_ORIGIN"].split(","))
    assert (x, y, z) == pytest.approx(header.dials_origin_mm, rel=5.1e-6)


def test_what_is_no_image_is_refused() -> None:
    bad = np.full((2, 3), np.nan, np.float32)
    for call in (
        lambda: cf.float_bytes(bad),
        lambda: cf.statistics(bad),
        lambda: cf.scaled_integers(bad, 1.0, 0.0),
        lambda: cf.noise_integers(bad.astype(np.float64), 0.0),
        lambda: cf.pgm_bytes(bad, 1.0),
        lambda: cf.float_bytes(np.full((2, 3), 1e300)),
    ):
        with pytest.raises(ValueError, match="not finite"):
            call()
    with pytest.raises(ValueError, match="shape"):
        cf.float_bytes(np.zeros(6, np.float32))
    with pytest.raises(ValueError, match="scale"):
        cf.pgm_bytes(np.zeros((2, 3), np.float32), 0.0)
    for image in (np.zeros((96, 96), np.int32), np.zeros((96, 95), np.uint16)):
        with pytest.raises(ValueError, match="the header is of uint16"):
            cf.smv_bytes(STILL, image)
