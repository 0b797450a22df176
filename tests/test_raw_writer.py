"""Raw files, read as their JSON says."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

from libtbx.utils import Sorry  # noqa: E402
from nxmx_experiments import random_experiment  # noqa: E402

from nanobragg_plugin.format.classic_files import float_bytes  # noqa: E402
from nanobragg_plugin.format.nxmx_models import experiment_from_dict  # noqa: E402
from nanobragg_plugin.format.raw_writer import RawWriter  # noqa: E402


def random_photons(experiment) -> list[list[np.ndarray]]:
    """Of three images, panels of unequal sizes."""
    rng = np.random.default_rng(1)
    shapes = [panel.get_image_size()[::-1] for panel in experiment.detector]
    return [[rng.exponential(5, shape) for shape in shapes] for _ in range(3)]


def write(folder, experiment, images, **options):
    with RawWriter(folder / "out_#####.bin", experiment, **options) as writer:
        for index, image in enumerate(images):
            writer.write(index, image)
    return writer.names


def test_round_trip(tmp_path) -> None:
    experiment = random_experiment(3)
    images = random_photons(experiment)
    names = write(tmp_path, experiment, images, provenance={"seed": 7})
    said = json.loads((tmp_path / "out_raw.json").read_text())
    assert [path.name for path in names] == [*(f["name"] for f in said["files"]), "out_raw.json"]
    first, last = experiment.scan.get_image_range()
    assert [f["image"] for f in said["files"]] == list(range(first, last + 1))
    assert said["files"][0]["name"] == f"out_{first:05d}.bin"
    assert (said["dtype"], said["byte_order"], said["mask"]) == ("float32", "little_endian", None)
    for file, image in zip(said["files"], images):
        data = (tmp_path / file["name"]).read_bytes()
        assert len(data) == said["bytes_per_file"]
        for panel, values in zip(said["panels"], image):
            shape = panel["shape_slow_fast"]
            found = np.frombuffer(data, "<f4", shape[0] * shape[1], panel["byte_offset"])
            np.testing.assert_array_equal(found.reshape(shape), values.astype(np.float32))
    assert experiment_from_dict(said["models"]).detector == experiment.detector
    assert said["provenance"] == {"seed": 7}


def test_one_panel_is_nanobragg_c_s_float_file(tmp_path) -> None:
    experiment = random_experiment(0)
    images = random_photons(experiment)
    names = write(tmp_path, experiment, images)
    assert names[1].read_bytes() == float_bytes(images[1][0])


def test_mask(tmp_path) -> None:
    """Values stay as they are; a byte for each pixel says which are good."""
    experiment = random_experiment(1)
    experiment.detector[1].add_mask(1, 2, 3, 5)
    shapes = [panel.get_image_size()[::-1] for panel in experiment.detector]
    good = [np.ones(shape, bool) for shape in shapes]
    good[0][3, 2] = False
    images = random_photons(experiment)
    write(tmp_path, experiment, images, mask=good)
    good[1][2:5, 1:3] = False
    name = json.loads((tmp_path / "out_raw.json").read_text())["mask"]
    expected = np.concatenate([one.ravel() for one in good])
    np.testing.assert_array_equal(np.frombuffer((tmp_path / name).read_bytes(), "u1"), expected)


def test_half_way_leaves_nothing(tmp_path) -> None:
    experiment = random_experiment(0)
    images = random_photons(experiment)
    with pytest.raises(Sorry, match="1 of 3 images are missing"):
        write(tmp_path, experiment, images[:2])
    with pytest.raises(Sorry, match="not finite"):
        write(tmp_path, experiment, [images[0], [images[1][0] * np.inf]])
    assert os.listdir(tmp_path) == []
