"""SMV images read as nanoBragg.c reads -img and -mask; what is none is one Sorry."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch  # noqa: F401  (before cctbx, which loads an OpenMP stub)
from hypothesis import given
from hypothesis import strategies as st
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import smv_header
from nanobragg_plugin.format import classic_files as cf

CLASSIC = Path(__file__).parent / "data" / "classic"
GOOD = (
    b"{\nHEADER_BYTES=512;\nDIM=2;\nBYTE_ORDER=little_endian;\nTYPE=unsigned_short;\n"
    b"SIZE1=3;\nSIZE2=2;\nDISTANCE=100;\n}\f"
).ljust(512) + bytes(range(12))
PIXELS = [[0x0100, 0x0302, 0x0504], [0x0706, 0x0908, 0x0B0A]]


@pytest.fixture
def smv(tmp_path):
    """Reads bytes from a file."""

    def read(content: bytes) -> smv_header.SmvImage:
        (tmp_path / "an.img").write_bytes(content)
        return smv_header.read(tmp_path / "an.img")

    return read


def changed(old: bytes, new: bytes) -> bytes:
    """GOOD with other words in its header, which keeps its length."""
    text = GOOD[:512].rstrip(b" ")
    assert old in text
    return text.replace(old, new).ljust(512) + GOOD[512:]


def test_mask_as_nanobragg_read_it() -> None:
    """Its keywords come in such an order that DISTANCE=100 is hidden by CLOSE_DISTANCE=98.5:
    nanoBragg.c printed distance=0.0985 (data/classic/README.md)."""
    image = smv_header.read(CLASSIC / "mask.img")
    assert (image.width, image.height, image.data.shape) == (20, 14, (14, 20))
    assert image.values.get("DISTANCE") == image.values.get("CLOSE_DISTANCE") == 98.5
    assert image.values.get("PIXEL_SIZE") == 2.5
    assert image.values.get("BEAM_CENTER_X") is None
    # what it did not render is 0 in its image
    rendered = np.fromfile(CLASSIC / "mask_float.bin", "<f4").reshape(14, 20) != 0
    window = cf.window((14, 20), (1, 17, 2, 30))
    assert np.array_equal(rendered[window], image.data[window] != 0)


def test_keywords_are_found_inside_longer_ones() -> None:
    image = smv_header.read(CLASSIC / "mask_int.img")
    expected = {"ORGX": 11.5, "ORGY": 8.5, "PHI": 2.5, "OSC_RANGE": 0.5, "TWOTHETA": 0.0}
    expected |= {"WAVELENGTH": 1.1, "BEAM_CENTER_X": 18.75, "DIALS_ORIGIN": -27.5}
    assert {key: image.values.get(key) for key in expected} == expected


def test_header_longer_than_it_says() -> None:
    """nanoBragg.c's pixels then come after the text; the brightest of -intfile is 55000 + 40."""
    image = smv_header.read(CLASSIC / "long_int.img")
    assert image.data.max() == 55040 and (image.data >= 40).all()
    assert image.values.get("TWOTHETA") == 12.3457
    assert image.values.get("DETECTOR_SN") == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"HEADER_BYTES=512", b"HEADER_BYTES=  512"),
        (b"BYTE_ORDER=little_endian;\n", b""),
        (b"TYPE=unsigned_short;\n", b""),
        (b"SIZE1=3;", b"COMMENT=SIZE1 is 9;\nSIZE1= 3.0 pixels;"),
        (b"}\f", b"}\n\0\xff\xfe SIZE1=77;"),
        (b"}\f", b"}"),
    ],
)
def test_other_headers(smv, old, new) -> None:
    image = smv(changed(old, new))
    assert image.data.tolist() == PIXELS and image.data.dtype == np.uint16
    assert image.values.get("DISTANCE") == 100.0


def test_other_lengths_and_more_behind(smv) -> None:
    longer = changed(b"HEADER_BYTES=512", b"HEADER_BYTES=2048")
    content = longer[:512].ljust(2048) + GOOD[512:] + b"more"
    assert smv(content).data.tolist() == PIXELS
    shorter = changed(b"HEADER_BYTES=512", b"HEADER_BYTES=200")
    assert smv(shorter[:200] + GOOD[512:]).data.tolist() == PIXELS


def test_big_endian_is_swapped(smv) -> None:
    image = smv(changed(b"little_endian", b"big_endian"))
    assert image.data.tolist() == [[0x0001, 0x0203, 0x0405], [0x0607, 0x0809, 0x0A0B]]


def test_square_by_detector_dimensions(smv) -> None:
    for size in (b"", b"SIZE1=0;\n"):
        content = changed(b"SIZE1=3;\nSIZE2=2;\n", size + b"DETECTOR_DIMENSIONS=2 2;\n")
        assert smv(content).data.tolist() == [[0x0100, 0x0302], [0x0504, 0x0706]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an SMV image"),
        (b"\x89HDF\r\n\x1a\n" + bytes(2000), "not an SMV image"),
        (b"P5\n3 2\n255\n" + bytes(600), "not an SMV image"),
        (b"{\n" + GOOD[1:], "not an SMV image"),
        (GOOD[:60], "no closing brace"),
        (GOOD[:400], "cut short: 3 x 2 pixels need 524 bytes, it has 400"),
        (GOOD[:512], "cut short"),
        (GOOD[:523], "cut short: .* it has 523"),
        (changed(b"}\f", b""), "no closing brace"),
        (changed(b"=512", b"=64"), "does not end within its HEADER_BYTES"),
        (changed(b"=512", b"=0"), "no HEADER_BYTES from 1"),
        (changed(b"=512", b"=99999999999"), "no HEADER_BYTES from 1"),
        (changed(b"=512", b"=many"), "HEADER_BYTES .* 'many', not a number"),
        (changed(b"=512", b"=-512"), "HEADER_BYTES .* -512"),
        (changed(b"ER_BYTES", b"ER_BYTE"), "no HEADER_BYTES from 1"),
        (changed(b"SIZE1=3", b"SIZE1=300000"), "cut short: 300000 x 2"),
        (changed(b"SIZE1=3", b"SIZE1=1e300"), "cut short"),
        (changed(b"SIZE1=3", b"SIZE1=-3"), "SIZE1 .* is -3"),
        (changed(b"SIZE1=3", b"SIZE1=2.5"), "SIZE1 .* is 2.5"),
        (changed(b"SIZE1=3", b"SIZE1=three"), "SIZE1 .* 'three', not a number"),
        (changed(b"SIZE1=3;\nSIZE2=2;\n", b""), "gives no size"),
        (changed(b"SIZE2=2;\n", b""), "gives no size"),
        (changed(b"SIZE2=2;\n", b"SIZE2=0;\n"), "gives no size"),
        (changed(b"DIM=2", b"DIM=\xb2"), "a byte that is not text, at 24"),
        (changed(b"unsigned_short", b"float"), "TYPE 'float'"),
        (changed(b"unsigned_short", b"signed_long"), "TYPE 'signed_long'"),
    ],
)
def test_broken_files(smv, content, message) -> None:
    with pytest.raises(Sorry, match=message) as sorry:
        smv(content)
    assert "\n" not in str(sorry.value) and "an.img" in str(sorry.value)


@pytest.mark.parametrize(
    "value", [b"", b"unknown", b"nan", b"inf", b"1e999", b";\n", b"\x07\n\n"], ids=repr
)
def test_value_that_is_no_number(smv, value) -> None:
    values = smv(changed(b"DISTANCE=100;\n", b"DISTANCE=" + value + b";\n")).values
    with pytest.raises(Sorry, match="DISTANCE .*, not a number; mend") as sorry:
        values.get("DISTANCE")
    assert str(sorry.value).isprintable() and "an.img" in str(sorry.value)
    assert values.get("SIZE1") == 3


def test_keyword_without_a_value(smv) -> None:
    values = smv(changed(b"DISTANCE=100;\n", b"DISTANCE=100;\nby PHI;\n")).values
    with pytest.raises(Sorry, match="PHI .* '', not a number"):
        values.get("PHI")


def test_files_that_cannot_be_read(tmp_path) -> None:
    for path in (tmp_path / "missing.img", tmp_path):
        with pytest.raises(Sorry, match=f"cannot read .*{re.escape(str(path))}") as sorry:
            smv_header.read(path)
        assert "\n" not in str(sorry.value)


@given(
    data=st.data(),
    width=st.integers(1, 6),
    height=st.integers(1, 6),
    numbers=st.lists(st.floats(-1e30, 1e30), min_size=21, max_size=21),
)
def test_round_trip(data, width, height, numbers, tmp_path_factory) -> None:
    """What `classic_files` writes, headers of 512 and 1024 bytes, comes back."""
    values = st.binary(min_size=2 * width * height, max_size=2 * width * height)
    image = np.frombuffer(data.draw(values), np.uint16).reshape(height, width)
    a, b, c, d, e, f, g, *rest = numbers
    pairs = [tuple(rest[2 * i : 2 * i + 2]) for i in range(4)]
    header = cf.SmvHeader(
        width, height, a, b, c, d, *pairs, tuple(rest[8:11]), tuple(rest[11:13]), e, f, g
    )
    path = tmp_path_factory.mktemp("smv") / "an.img"
    path.write_bytes(cf.smv_bytes(header, image))
    back = smv_header.read(path)
    assert (back.width, back.height) == (width, height) and np.array_equal(back.data, image)
    expected = {"PIXEL_SIZE": a, "DISTANCE": c, "WAVELENGTH": d, "PHI": e, "TWOTHETA": g}
    for key, value in {**expected, "ORGY": header.xds_org[1]}.items():
        assert back.values.get(key) == pytest.approx(value, rel=5.1e-6)  # six digits


@given(data=st.data())
def test_damaged_files_are_read_or_refused(data, tmp_path_factory) -> None:
    """Bytes of the header replaced, the file cut: pixels of the size it says, or one Sorry."""
    content = bytearray((CLASSIC / "mask_int.img").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, 450))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path_factory.mktemp("smv") / "an.img"
    path.write_bytes(bytes(content))
    try:
        image = smv_header.read(path)
    except Sorry as sorry:
        assert os.linesep not in str(sorry) and "an.img" in str(sorry)
    else:
        assert image.data.shape == (image.height, image.width) and image.data.size > 0
