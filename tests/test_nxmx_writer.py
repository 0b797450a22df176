"""What the NXmx writer refuses, what it leaves behind, and which files our class claims."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("dxtbx")

import h5py
from dxtbx.format.FormatNXmx import FormatNXmx
from dxtbx.format.Registry import get_format_class_for_file
from dxtbx.model import Experiment, Scan
from libtbx.utils import Sorry
from nxmx_experiments import random_counts, random_detector, random_experiment

from nanobragg_plugin.adapters import dxtbx_versions
from nanobragg_plugin.format import nxmx_models
from nanobragg_plugin.format.FormatNXmxNanoBragg import FormatNXmxNanoBragg
from nanobragg_plugin.format.nxmx_models import experiment_from_dict, experiment_to_dict
from nanobragg_plugin.format.nxmx_writer import NXmxWriter


@pytest.fixture
def experiment():
    return random_experiment(4)  # one panel, trusted range (-1, 65000)


@pytest.fixture
def written(tmp_path, experiment):
    path = tmp_path / "good.nxs"
    with NXmxWriter(path, experiment, provenance={"seed": 7, "inputs": {"a": "b"}}) as writer:
        for index, image in enumerate(random_counts(experiment, 3)):
            writer.write(index, image)
    return path


def one_image(experiment, value, dtype=np.float64):
    (panel,) = experiment.detector
    return [np.full(panel.get_image_size()[::-1], value, dtype=dtype)]


def write_one(path, experiment, value, **options):
    experiment.scan = None
    with NXmxWriter(path, experiment, **options) as writer:
        writer.write(0, one_image(experiment, value))
    return FormatNXmx(str(path)).get_raw_data(0)[0].as_numpy_array()


@pytest.mark.parametrize(
    "dtype, value, stored",
    [
        ("int32", 7.6, 8),
        ("int32", -3.0, -3),
        # beyond the type: clipped to its end, which the range up to 65000 does not trust
        ("int32", 3e9, 2**31 - 1),
        ("int32", -3e9, -(2**31)),
        ("uint16", 64999.4, 64999),
        ("uint16", 1e6, 65535),
        ("float32", 0.1, np.float32(0.1)),
        ("float32", 3e9, 3e9),
    ],
)
@pytest.mark.parametrize("compression", ["gzip", "none", None])
def test_values_are_rounded_and_overloads_stay_overloads(
    tmp_path, experiment, dtype, value, stored, compression
):
    options = {"dtype": dtype, "compression": compression}
    read = write_one(tmp_path / "a.nxs", experiment, value, **options)
    assert (read == stored).all()
    panel = FormatNXmxNanoBragg(str(tmp_path / "a.nxs")).get_detector()[0]
    assert panel.is_value_in_trusted_range(float(read[0, 0])) == (0 <= round(value) <= 65000)
    with h5py.File(tmp_path / "a.nxs") as handle:
        data = handle["/entry/data/data"]
        assert data.dtype == dtype
        assert (data.compression, data.shuffle) == (
            ("gzip", True) if compression == "gzip" else (None, False)
        )


@pytest.mark.parametrize(
    "trusted, dtype, value, message",
    [
        ((0, 0), "int32", 3e9, "more than int32 holds"),
        ((0, 0), "uint16", -1.0, "less than uint16 holds"),
        ((-1, 65000), "uint16", -1.0, "less than uint16 holds"),
        ((-1, 65000), "int32", np.nan, "not finite"),
        ((-1, 65000), "float32", np.inf, "not finite"),
        ((-1, 65000), "float32", 1e39, "beyond what float32 holds"),
        ((-1, 1e6), "uint16", 1.0, "trusts values from -1 to 1e"),
        ((-100, 1000), "uint16", 1.0, "trusts values from -100"),
        ((-1, 65000), "float64", 1.0, "cannot be written as float64"),
    ],
)
def test_values_that_the_type_cannot_hold(tmp_path, experiment, trusted, dtype, value, message):
    experiment.detector[0].set_trusted_range(trusted)
    with pytest.raises(Sorry, match=message):
        write_one(tmp_path / "a.nxs", experiment, value, dtype=dtype)
    assert os.listdir(tmp_path) == []


def test_contradictions(tmp_path, experiment):
    path = tmp_path / "a.nxs"
    for message, options in (
        ("2 images was asked for, the scan has 3", {"n_images": 2}),
        ("at least one", {"n_images": 0}),
        ("holds none: choose float32", {"expected": True}),
        ("Unknown compression lz4", {"compression": "lz4"}),
    ):
        with pytest.raises(Sorry, match=message):
            NXmxWriter(path, experiment, **options)
    with pytest.raises(Sorry, match="has no beam"):
        NXmxWriter(path, Experiment(detector=experiment.detector))
    with pytest.raises(Sorry, match="nowhere does not exist"):
        NXmxWriter(tmp_path / "nowhere" / "a.nxs", experiment)
    with pytest.raises(Sorry, match="it is a folder"):
        NXmxWriter(tmp_path, experiment)
    with pytest.raises(Sorry, match="no goniometer"):
        NXmxWriter(
            path,
            Experiment(
                detector=experiment.detector, beam=experiment.beam, scan=Scan((1, 2), (0, 1))
            ),
        )
    assert os.listdir(tmp_path) == []


def test_killed_half_way_leaves_what_was_there(tmp_path, written, experiment):
    before = written.read_bytes()
    images = random_counts(experiment, 3, seed=1)
    with pytest.raises(KeyboardInterrupt):
        with NXmxWriter(written, experiment) as writer:
            writer.write(1, images[1])
            assert len(os.listdir(tmp_path)) == 2
            raise KeyboardInterrupt
    with pytest.raises(Sorry, match="2 of its 3 images are missing, the first of them image 1"):
        with NXmxWriter(written, experiment) as writer:
            writer.write(1, images[1])
    with pytest.raises(ValueError, match="written before"):
        with NXmxWriter(written, experiment) as writer:
            writer.write(1, images[1])
            writer.write(1, images[1])
    with pytest.raises(IndexError):
        with NXmxWriter(written, experiment) as writer:
            writer.write(3, images[1])
    with pytest.raises(ValueError, match="has panels"):
        with NXmxWriter(written, experiment) as writer:
            writer.write(0, [images[0][0].T])
    assert os.listdir(tmp_path) == [written.name]
    assert written.read_bytes() == before


def test_same_input_same_bytes(tmp_path, written, experiment):
    with NXmxWriter(
        tmp_path / "b.nxs", experiment, provenance={"seed": 7, "inputs": {"a": "b"}}
    ) as w:
        for index, image in enumerate(random_counts(experiment, 3)):
            w.write(index, image)
    assert (tmp_path / "b.nxs").read_bytes() == written.read_bytes()


def test_provenance_and_content(tmp_path, written, experiment):
    assert nxmx_models.read_provenance(written) == {"seed": 7, "inputs": {"a": "b"}}
    assert FormatNXmxNanoBragg(str(written)).get_provenance()["seed"] == 7
    write_one(tmp_path / "e.nxs", experiment, 0.25, dtype="float32", expected=True)
    with h5py.File(tmp_path / "e.nxs") as handle:
        assert handle["/entry/nanobragg"].attrs["content"] == "expected photons"


def test_only_our_files_are_ours(tmp_path, written):
    whole = written.read_bytes()
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "garbage.nxs").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "signature.nxs").write_bytes(whole[:8])
    for i, part in enumerate((0.02, 0.1, 0.5, 0.9, 0.999)):
        (tmp_path / f"truncated_{i}.nxs").write_bytes(whole[: int(part * len(whole))])
    for i, group in enumerate(("entry", "entry/nanobragg", "entry/nanobragg/models")):
        with h5py.File(tmp_path / f"dataset_{i}.h5", "w") as handle:
            handle[group] = 1
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret").mkdir(mode=0)
    names = [n for n in os.listdir(tmp_path) if n != written.name] + ["not there", "a\0b"]
    assert len(names) > 12
    for name in names:
        assert FormatNXmxNanoBragg.understand(str(tmp_path / name)) is False, name
    assert FormatNXmxNanoBragg.understand(str(written)) is True
    assert FormatNXmxNanoBragg.understand(written) is True


def test_damaged_bytes_never_raise(tmp_path, written):
    """Every byte of the file's metadata turned over, some hundreds of them at random."""
    whole = bytearray(written.read_bytes())
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.nxs"
    for position in rng.integers(0, len(whole), size=300):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        assert FormatNXmxNanoBragg.understand(str(path)) in (True, False)


def test_other_nxmx_files_are_the_stock_class(tmp_path, written):
    other = tmp_path / "other.nxs"
    shutil.copy(written, other)
    with h5py.File(other, "r+") as handle:
        del handle["/entry/nanobragg"]
    assert get_format_class_for_file(str(written)) is FormatNXmxNanoBragg
    assert get_format_class_for_file(str(other)) is FormatNXmx
    with pytest.raises(Sorry, match="holds no nanobragg models"):
        nxmx_models.read_models(other)


def test_a_later_version_says_so(tmp_path, written):
    with h5py.File(written, "r+") as handle:
        handle["/entry/nanobragg"].attrs["format_version"] = 99
    with pytest.raises(Sorry, match="install a newer nanobragg"):
        FormatNXmxNanoBragg(str(written))


def test_understand_is_cheap(written):
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assert FormatNXmxNanoBragg.understand(str(written))
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05  # seen: 0.001 s
    # and the class comes without torch
    code = (
        "import sys, nanobragg_plugin.format.FormatNXmxNanoBragg as m;"
        f"assert m.FormatNXmxNanoBragg.understand({str(written)!r});"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_panel_without_sensor_has_no_parallax_for_the_stock_reader(tmp_path):
    rng = np.random.default_rng(2)
    experiment = random_experiment(0)
    experiment.detector = random_detector(rng, 1, experiment.beam, material="")
    experiment.scan = None
    path = tmp_path / "a.nxs"
    with NXmxWriter(path, experiment) as writer:
        writer.write(0, random_counts(experiment, 1)[0])
    pixel = experiment.detector[0].get_pixel_size()
    for reader in (FormatNXmx, FormatNXmxNanoBragg):
        panel = reader(str(path)).get_detector()[0]
        # seen: 3e-10 mm
        assert panel.pixel_to_millimeter((4.0, 6.0)) == pytest.approx(
            (4 * pixel[0], 6 * pixel[1]), abs=1e-8
        )


def test_trusted_range_of_the_other_dxtbx(experiment, monkeypatch):
    """A file of a dxtbx whose ranges exclude their ends, read by one whose ranges include them.

    dxtbx 3.11 reads underload 0, saturation 65000 as (-1, 65000), 3.12 as (0, 65000).
    """
    saved = experiment_to_dict(experiment)
    saved["trusted_range_inclusive"] = False
    monkeypatch.setattr(dxtbx_versions, "trusted_range_is_inclusive", lambda: True)
    assert experiment_from_dict(saved).detector[0].get_trusted_range() == (0, 65000)
    saved = experiment_to_dict(experiment)
    monkeypatch.setattr(dxtbx_versions, "trusted_range_is_inclusive", lambda: False)
    assert experiment_from_dict(saved).detector[0].get_trusted_range() == (-2, 65000)
