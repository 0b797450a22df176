"""nanoBragg.c's dump of structure factors: its own file, round trips, broken files."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from libtbx.utils import Sorry

from nanobragg_plugin import structure_factors
from nanobragg_plugin.adapters import fdump

CLASSIC = Path(__file__).parent / "data" / "classic"
DUMP = (CLASSIC / "Fdump.bin").read_bytes()
#: Of one F, 7.5: a box of 2 x 2 x 2 with its outer layers.
ONE = b"4 4 -5 -5 6 6\n\f" + struct.pack("<8d", 7.5, *[0.0] * 7)


def given_to_nanobragg() -> tuple[np.ndarray, np.ndarray]:
    """The indices and F of its -hkl, by numpy's own reader; default_F was 4.5."""
    rows = np.loadtxt(CLASSIC / "tiny.hkl")
    return rows[:, :3].astype(int), rows[:, 3]


def test_dump_of_the_c_program_is_read() -> None:
    indices, F = fdump.read(CLASSIC / "Fdump.bin")
    assert indices.dtype == np.int64 and F.dtype == np.float64
    expected = {(h, k, l): 4.5 for h in range(-2, 3) for k in range(-3, 2) for l in range(-1, 4)}
    given_indices, given_F = given_to_nanobragg()
    expected |= {tuple(index): value for index, value in zip(given_indices.tolist(), given_F)}
    assert dict(zip(map(tuple, indices.tolist()), F.tolist())) == expected
    sf = structure_factors.table(torch.from_numpy(indices), torch.from_numpy(F), 4.5)
    h, k, l = torch.from_numpy(given_indices).T
    assert structure_factors.nearest(sf, h, k, l).tolist() == given_F.tolist()


def test_dump_is_written_as_the_c_program_does() -> None:
    assert fdump.to_bytes(*given_to_nanobragg(), default_F=4.5) == DUMP


# The first F starts with bytes that a C program reading white space would skip, or with any.
AMPLITUDES = st.one_of(
    st.floats(0, 1e300), st.sampled_from([b" " * 6 + b"\x59\x40", b"\n\f\n\f\n\f\x59\x40"])
).map(lambda value: value if isinstance(value, float) else struct.unpack("<d", value)[0])
INDEX = st.integers(-6, 6)


@given(
    F_of=st.dictionaries(st.tuples(INDEX, INDEX, INDEX), AMPLITUDES, min_size=1, max_size=20),
    default_F=st.floats(0, 100),
    shift=st.integers(-900, 900),
)
def test_round_trip(F_of, default_F, shift, tmp_path_factory) -> None:
    wanted = {(h + shift, k, l - shift): F for (h, k, l), F in F_of.items()}
    path = tmp_path_factory.mktemp("dump") / "Fdump.bin"
    indices = np.array(list(wanted))
    path.write_bytes(fdump.to_bytes(indices, np.array(list(wanted.values())), default_F))
    read_indices, read_F = fdump.read(path)
    found = dict(zip(map(tuple, read_indices.tolist()), read_F.tolist()))
    assert len(found) == len(read_F) == np.prod(np.ptp(indices, axis=0) + 1)
    assert found == {index: wanted.get(index, default_F) for index in found}
    assert wanted.keys() <= found.keys()


def test_one_amplitude(tmp_path) -> None:
    path = tmp_path / "Fdump.bin"
    path.write_bytes(ONE)
    indices, F = fdump.read(path)
    assert indices.tolist() == [[4, -5, 6]] and F.tolist() == [7.5]
    assert fdump.to_bytes(indices, F) == ONE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a dump"),
        (b"0 0 1 5\n0 0 2 6\n", "not a dump"),
        (b"4 4 -5 -5 6\n\f" + ONE[15:], "not a dump"),
        (b"4 4 -5 -5 6 6\n" + ONE[15:], "not a dump"),
        (b"4 4 -5 -5 6 6.5\n\f" + ONE[15:], "not a dump"),
        (b"4 4 -5 -5 6 66666666666666666666\n\f" + ONE[15:], "not a dump"),
        (b"\x89HDF\r\n\x1a\n" + bytes(2000), "not a dump"),
        (ONE[:15], "has 15 bytes, its first line asks for 79"),
        (ONE[:-1], "has 78 bytes, .* 79"),
        (ONE + b"\n", "has 80 bytes, .* 79"),
        (DUMP[:-8], "cut short"),
        (b"4 3 -5 -5 6 6\n\f" + ONE[15:], "spans no indices.*4 3 -5 -5 6 6"),
        (b"0 99999 0 99999 0 99999\n\f" + ONE[15:], "too many"),
        (ONE[:15] + struct.pack("<d", float("nan")) + ONE[23:], r"\(4, -5, 6\) is nan: not a fin"),
        (ONE[:15] + struct.pack("<d", float("inf")) + ONE[23:], r"\(4, -5, 6\) is inf"),
        (ONE[:15] + struct.pack("<d", -2.0) + ONE[23:], r"\(4, -5, 6\) is -2.0: negative"),
    ],
)
def test_broken_files(content, message, tmp_path) -> None:
    path = tmp_path / "Fdump.bin"
    path.write_bytes(content)
    with pytest.raises(Sorry, match=message) as sorry:
        fdump.read(path)
    assert "\n" not in str(sorry.value) and str(path) in str(sorry.value)


def test_files_that_cannot_be_read(tmp_path) -> None:
    for path in (tmp_path / "missing.bin", tmp_path):
        with pytest.raises(Sorry, match=f"cannot read .*{re.escape(str(path))}") as sorry:
            fdump.read(path)
        assert "\n" not in str(sorry.value)


@pytest.mark.parametrize(
    ("indices", "F", "message"),
    [
        (np.zeros((0, 3), int), np.zeros(0), "0 indices"),
        (np.zeros((2, 3), int), np.zeros(3), "2 indices"),
        (np.zeros((2, 3)), np.zeros(2), "integers"),
        (np.zeros((2, 2), int), np.zeros(2), "integers"),
        (np.array([[0, 0, 0], [90000, 80000, 70000]]), np.ones(2), "too large a box"),
    ],
)
def test_what_cannot_be_written(indices, F, message) -> None:
    with pytest.raises(ValueError, match=message):
        fdump.to_bytes(indices, F)
