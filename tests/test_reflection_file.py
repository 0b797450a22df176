"""P1 text, the choice among arrays, and files that are none: one Sorry each."""

from __future__ import annotations

import pickle
from pathlib import Path

import miller_files as mf
import numpy as np
import pytest
import torch  # noqa: F401  (before cctbx, which loads an OpenMP stub)
from cctbx.array_family import flex
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.reflection_file import kind_of_file, read_hkl_text

GOLDEN = Path(__file__).parent / "data" / "golden"


def amplitudes(symbol: str = "P 1 21 1"):
    f_calc = mf.structure(symbol).structure_factors(d_min=mf.D_MIN, algorithm="direct").f_calc()
    return f_calc.amplitudes().set_observation_type_xray_amplitude()


def intensities():
    return amplitudes().f_as_f_sq().set_observation_type_xray_intensity()


@pytest.fixture
def hkl(tmp_path):
    """Writes text to a file and reads it for the crystal of P 1."""

    def read(text: str, **values):
        path = tmp_path / "f.hkl"
        path.write_text(text)
        return mf.read(path, "P 1", **values)

    return read


def test_text_is_taken_as_it_is(hkl):
    sf, summary = hkl(
        "# h k l F\n 0 0 4 293.3548\n\n-1  2\t3 1.5e1 # weak\n3.0 0 0 0\n", default_F=7
    )
    given = [(0, 0, 4), (-1, 2, 3), (3, 0, 0)]
    assert mf.looked_up(sf, given) == [293.3548, 15.0, 0.0]
    # Neither Friedel mates nor absences: what is not in the file is default_F.
    assert mf.looked_up(sf, [(0, 0, -4), (1, -2, -3), (0, 0, 0)]) == [7.0] * 3
    assert summary.n_p1 == 3 and "P1 text" in summary.how


def test_text_is_cut_at_d_min(hkl):
    c = mf.symmetry("P 1").unit_cell()
    assert c.d((0, 0, 4)) < 5 < c.d((0, 0, 1))
    sf, summary = hkl("0 0 1 5\n0 0 4 6\n", d_min=5, default_F=1.5)
    assert mf.looked_up(sf, [(0, 0, 1), (0, 0, 4)]) == [5.0, 1.5]
    assert "1 reflections beyond 5 A left out" in str(summary)


@pytest.mark.parametrize("name", ["tetragonal.hkl", "triclinic.hkl"])
def test_text_of_the_golden_images(name):
    path = GOLDEN / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    indices, F = read_hkl_text(path)
    expected = np.loadtxt(path)  # numpy's own reader
    order = np.lexsort(expected[:, 2::-1].T)
    assert np.array_equal(indices, expected[order, :3].astype(int))
    assert np.array_equal(F, expected[order, 3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0 1 5\n0 0 2\n", "Line 2 .*four columns"),
        ("0 0 1 5\n# fine\n\n0 0 2 5 0.1\n", "Line 4 .*four columns"),
        ("0 0 1 5\n0.5 0 2 7\n", "Line 2 .*not an integer"),
        ("0 0 1 5\n0 0 2 nan\n", "Line 2 .*not finite"),
        ("0 0 1 5\n0 0 2 inf\n", "Line 2 .*not finite"),
        ("0 0 1 5\n0 0 nan 2\n", "Line 2 .*not finite"),
        ("0 0 1 5\n0 0 2 -3\n", "Line 2 .*negative"),
        ("0 0 1 5\n0 0 2 1.5D1\n", "Line 2 .*not a number"),
        ("0 0 1 5\n0 0 2 x\n", "Line 2 .*not a number"),
        ("0 0 1 5\n0 0 2 6\n0 0 1 5.5\n", "Line 3 .*another line"),
        ("0 0 1 5\n0 0 20000000 6\n", "Line 2 .*million"),
        ("0 0 1 5\n90000 80000 70000 6\n", "span a box"),
        ("h k l F\n0 0 1 5\n", "no file of reflections"),
    ],
)
def test_bad_text(hkl, text, message):
    with pytest.raises(Sorry, match=message) as sorry:
        hkl(text)
    assert "\n" not in str(sorry.value) and "f.hkl" in str(sorry.value)


def test_the_same_line_twice_is_let_pass(hkl):
    _, summary = hkl("0 0 1 5\n0 0 2 6\n0 0 1 5\n")
    assert summary.n_p1 == 2


def mtz_of_many(path) -> str:
    """F, intensities, map coefficients, free flags and a figure of merit in one file."""
    array = amplitudes()
    dataset = array.as_mtz_dataset(column_root_label="FP")
    dataset.add_miller_array(intensities(), column_root_label="IMEAN")
    phases = array.customized_copy(data=flex.double(array.size(), 30.0))
    dataset.add_miller_array(array.phase_transfer(phases, deg=True), column_root_label="FWT")
    fom = array.customized_copy(data=flex.double(array.size(), 0.5)).set_observation_type(None)
    dataset.add_miller_array(fom, column_root_label="FOM", column_types="W")
    dataset.add_miller_array(array.generate_r_free_flags(), column_root_label="FREE")
    dataset.mtz_object().write(str(path))
    return str(path)


def test_several_arrays_have_to_be_chosen_from(tmp_path):
    path = mtz_of_many(tmp_path / "many.mtz")
    with pytest.raises(Sorry, match="3 arrays .*structure_factors.labels") as sorry:
        mf.read(path, "P 1 21 1")
    message = str(sorry.value)
    assert all(label in message for label in ("FP", "IMEAN", "FWT,PHIFWT"))
    assert "FREE" not in message and "FOM" not in message
    truth = mf.p1_truth(mf.structure("P 1 21 1"), "P 1 21 1")
    for labels in ("FP", "IMEAN", "imean", "FWT,PHIFWT", "FWT PHIFWT", "FWT"):
        sf, summary = mf.read(path, "P 1 21 1", labels=labels)
        assert mf.worst(sf, truth) < 3e-7
        assert labels.split(",")[0].split()[0].upper() in summary.labels
    with pytest.raises(Sorry, match="no array with the labels FX.*FP.*IMEAN"):
        mf.read(path, "P 1 21 1", labels="FX")
    with pytest.raises(Sorry, match="no array with the labels FREE"):
        mf.read(path, "P 1 21 1", labels="FREE")
    with pytest.raises(Sorry, match="does not say whether FOM"):
        mf.read(path, "P 1 21 1", labels="FOM")


def test_observation_type_may_not_contradict(tmp_path):
    path = mtz_of_many(tmp_path / "many.mtz")
    with pytest.raises(Sorry, match="FP of .* are amplitudes, but"):
        mf.read(path, "P 1 21 1", labels="FP", observation_type="intensities")
    with pytest.raises(Sorry, match="IMEAN of .* are intensities, but"):
        mf.read(path, "P 1 21 1", labels="IMEAN", observation_type="amplitudes")
    with pytest.raises(Sorry, match="amplitudes and phases"):
        mf.read(path, "P 1 21 1", labels="FWT", observation_type="intensities")
    sf, _ = mf.read(path, "P 1 21 1", labels="FP", observation_type="amplitudes")
    assert sf.Fhkl.max() > 0


def test_no_amplitudes(tmp_path):
    path = tmp_path / "free.mtz"
    flags = amplitudes().generate_r_free_flags()
    flags.as_mtz_dataset(column_root_label="FREE").mtz_object().write(str(path))
    with pytest.raises(Sorry, match="no array known to be amplitudes.*FREE"):
        mf.read(path, "P 1 21 1")


@pytest.mark.parametrize(
    ("value", "message"), [(-4.0, "a negative amplitude"), (float("inf"), "not a finite number")]
)
def test_impossible_amplitudes(value, message, tmp_path):
    array = amplitudes()
    array.data()[5] = value
    path = tmp_path / "f.cif"
    with path.open("w") as stream:
        array.as_cif_simple("meas", out=stream)
    with pytest.raises(Sorry, match=message) as sorry:
        mf.read(path, "P 1 21 1")
    assert str(array.indices()[5]) in str(sorry.value)


def test_missing_numbers_are_left_out(tmp_path):
    array = amplitudes()
    array.data()[5] = float("nan")  # MTZ's mark of a missing number
    path = tmp_path / "f.mtz"
    array.as_mtz_dataset(column_root_label="F").mtz_object().write(str(path))
    sf, summary = mf.read(path, "P 1 21 1", default_F=2.5)
    assert summary.n_unique == array.size() - 1
    assert mf.looked_up(sf, [array.indices()[5]]) == [2.5]


class Trap:
    """What a pickle may do when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_files_that_are_none(tmp_path):
    def refused(name: str, content: bytes, message: str):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(Sorry, match=message) as sorry:
            mf.read(path, "P 1")
        assert str(path) in str(sorry.value) and "\n" not in str(sorry.value)

    noise = np.random.RandomState(0).bytes(20000)
    refused("noise.mtz", noise, "is binary and not an MTZ")
    refused("noise.hkl", noise[:100], "is binary and not an MTZ")
    refused("broken.mtz", b"MTZ " + noise, "cannot be read as a file of reflections")
    refused("short.mtz", b"MTZ ", "cannot be read as a file of reflections")
    refused("empty.mtz", b"", "is empty")
    refused("blank.hkl", b"  \n\n", "is empty")
    refused("comments.hkl", b"# h k l F\n", "no file of reflections")
    refused("letter.txt", b"Dear Sir,\nthe crystals\nhave grown.\n", "no file of reflections")
    refused("broken.cif", b"data_x\nloop_\n_refln.index_h\n_refln.index_k\n1 2 3\n", "valid CIF")
    refused("other.cif", b"data_x\n_cell.length_a 10\n", "neither reflections .* nor atoms")
    refused("hkl.pdb", b"REMARK nothing\nEND\n", "no file of reflections")
    trap = tmp_path / "sprung"
    refused("trap.pickle", pickle.dumps(Trap(trap)), "is binary and not an MTZ")
    refused("trap0.pickle", pickle.dumps(Trap(trap), protocol=0), "no file of reflections")
    assert not trap.exists()


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(Sorry, match="missing.mtz"):
        mf.read(tmp_path / "missing.mtz", "P 1")
    with pytest.raises(Sorry, match="Cannot read"):
        mf.read(tmp_path, "P 1")
    with pytest.raises(Sorry, match="structure_factors.file .* or structure_factors.default_F"):
        mf.read(None, "P 1")


def test_default_F_has_to_be_a_number():
    with pytest.raises(Sorry, match="default_F"):
        mf.read(None, "P 1", default_F="nan")


def test_the_name_does_not_matter(tmp_path):
    text = tmp_path / "text.mtz"
    text.write_text("0 0 1 5\n")
    assert kind_of_file(text) == "text"
    mtz = tmp_path / "amplitudes.hkl"
    amplitudes().as_mtz_dataset(column_root_label="F").mtz_object().write(str(mtz))
    assert kind_of_file(mtz) == "mtz"
    assert mf.read(mtz, "P 1 21 1")[1].completeness == 1.0
