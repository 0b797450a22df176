# ruff: noqa: E402
"""What newer versions of dxtbx do differently, continued: scans, and what is in files."""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("dials")

import newer_dxtbx as newer
import simulate_helpers as sim
from dxtbx.format.FormatNXmx import FormatNXmx
from dxtbx.model import Scan
from dxtbx.model import experiment_list as theirs
from libtbx.phil import parse
from libtbx.utils import Sorry
from scitbx.array_family import flex

from nanobragg_plugin.adapters import (
    compared_files,
    dxtbx_versions,
    fluence,
    live_list,
    load,
)
from nanobragg_plugin.adapters import models as adapters
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.adapters.live_paths import Trusted
from nanobragg_plugin.compare import models as compared
from nanobragg_plugin.format import nxmx_models
from nanobragg_plugin.format.FormatNXmxNanoBragg import FormatNXmxNanoBragg
from nanobragg_plugin.format.FormatSMVNanoBragg import FormatSMVNanoBragg
from nanobragg_plugin.format.image_files import NUMBER, image_path, times_of_image
from nanobragg_plugin.format.nxmx_writer import NXmxWriter
from nanobragg_plugin.format.smv_writer import SmvWriter
from nanobragg_plugin.run import arguments, experiments, expt_guard, view_images

MINIMAL = "structure_factors.default_F=1\nbeam.fluence=1\n"


def params_of(text: str = "") -> Any:
    return adapt.master_scope().fetch(parse(MINIMAL + text)).extract()


# --- 3.18: a scan is a table


def table_scan(**more: list) -> newer.TableScan:
    """Images 11 to 13 of 0.2 degrees from 0.5 on, of 0.1 s each."""
    table = {
        "oscillation": [0.5, 0.7, 0.9],
        "exposure_time": [0.1, 0.1, 0.1],
        "epochs": [5.0, 6.0, 7.0],
    }
    return newer.TableScan((11, 13), {**table, **more}, batch_offset=4)


def test_a_scan_without_an_oscillation_is_of_stills():
    scan = newer.TableScan((1, 2), {})
    with pytest.raises(RuntimeError, match="oscillation"):
        scan.get_oscillation()
    assert not dxtbx_versions.is_rotation(scan)
    exposure = adapters.exposure(scan, 1, phisteps=1)
    assert exposure.phi == (0.0,) and exposure.position == (1.5,)
    assert fluence.exposure_times(scan, 2) == [0.0, 0.0]
    assert times_of_image(scan, 1)[0] == 0.0
    assert compared._scan(sim.scan(), scan) == {"reason": "a scan has no oscillation"}


def test_a_scan_of_times_of_flight_is_refused():
    scan = newer.TableScan((1, 2), {"time_of_flight": [0.1, 0.2]})
    assert not scan.is_still() and not dxtbx_versions.is_rotation(scan)
    with pytest.raises(Sorry, match="times of flight"):
        adapt.plan(params_of(), sim.sweep(scan=scan))
    with pytest.raises(Sorry, match="times of flight"):
        adapters.exposure(scan)


def test_a_table_of_a_rotation_is_simulated_as_before():
    new, old = table_scan(), Scan((11, 13), (0.5, 0.2))
    for index in range(3):
        one, two = (adapters.exposure(scan, index, phisteps=4).phi for scan in (new, old))
        assert one == pytest.approx(two, abs=1e-15)  # radians
    assert fluence.exposure_times(new, 3) == [0.1, 0.1, 0.1]
    assert times_of_image(new, 2)[1].second == 7


def assert_scan(scan: Any, image_range: tuple[int, int], start: float) -> None:
    assert scan.get_image_range() == image_range and scan.get_batch_offset() == 4
    assert scan.get_oscillation() == pytest.approx((start, 0.2), abs=1e-14)
    count = image_range[1] - image_range[0] + 1
    assert list(scan.get_exposure_times()) == [0.1] * count
    assert scan.get_epochs()[0] == image_range[0] - 6


def counts() -> list[np.ndarray]:
    return [np.full((18, 24), 7, np.int32)]


@pytest.mark.skipif(dxtbx_versions.scans_are_tables(), reason="dxtbx reads tables itself")
def test_files_of_a_newer_dxtbx_in_an_older_one(tmp_cwd):
    """NXmx and SMV; a header holds the scan of its one image, with the width beside it."""
    experiment = sim.sweep(scan=table_scan())
    experiment.detector[0].set_trusted_range((-1, 65535))
    with NXmxWriter("new.nxs", experiment, n_images=3) as writer:
        for index in range(3):
            writer.write(index, counts())
    with h5py.File("new.nxs") as handle:
        saved = json.loads(handle["/entry/nanobragg/models"][()])["scan"]
    assert set(saved) == {"image_range", "batch_offset", "properties", "valid_image_ranges"}
    assert_scan(FormatNXmxNanoBragg("new.nxs").get_scan(), (11, 13), 0.5)
    # the stock reader has the scan from NXmx's own fields
    assert FormatNXmx("new.nxs").get_scan().get_oscillation() == pytest.approx((0.5, 0.2))
    with SmvWriter(f"new_{NUMBER}.img", experiment, n_images=3) as writer:
        for index in range(3):
            writer.write(index, counts())
    last = str(image_path(Path(f"new_{NUMBER}.img"), 13))
    assert_scan(FormatSMVNanoBragg(last).get_scan(), (13, 13), 0.9)


@pytest.mark.parametrize("images", [1, 3])
def test_models_of_an_older_dxtbx_in_a_newer_one(images, monkeypatch):
    """And its own: both reach its from_dict as it reads them."""
    old = sim.scan(11, images, 0.5, 0.1)
    old.set_batch_offset(4)
    saved = json.loads(json.dumps(nxmx_models.experiment_to_dict(sim.sweep(scan=old))))
    tables = {**nxmx_models._FACTORIES, "scan": newer.TableScanFactory}
    monkeypatch.setattr(nxmx_models, "_FACTORIES", tables)
    monkeypatch.setattr(dxtbx_versions, "scans_are_tables", lambda: True)
    scan = nxmx_models.experiment_of_stranger(saved, "x").scan
    assert type(scan) is newer.TableScan
    assert scan.get_oscillation() == pytest.approx((0.5, 1.0), abs=1e-14)
    assert list(scan.get_exposure_times()) == [0.1] * images and scan.get_batch_offset() == 4
    saved["scan"] = json.loads(json.dumps(scan.to_dict()))
    again = nxmx_models.experiment_of_stranger(saved, "x").scan
    assert again.table == scan.table


@pytest.mark.skipif(dxtbx_versions.scans_are_tables(), reason="dxtbx reads tables itself")
def test_tables_that_an_older_dxtbx_cannot_read():
    saved = nxmx_models.experiment_to_dict(sim.sweep())
    saved["scan"] = newer.TableScan((1, 2), {}).to_dict()
    scan = nxmx_models.experiment_of_stranger(saved, "x").scan
    assert scan.is_still() and scan.get_image_range() == (1, 2)
    for table in ({"time_of_flight": [0.1, 0.2]}, {"oscillation": [0.1]}, {"oscillation": 3}, []):
        saved["scan"] = newer.TableScan((1, 2), {}).to_dict()
        saved["scan"]["properties"] = table
        with pytest.raises(Sorry, match="the models in it are damaged"):
            nxmx_models.experiment_of_stranger(saved, "x")


@pytest.mark.skipif(dxtbx_versions.scans_are_tables(), reason="dxtbx reads tables itself")
def test_lists_that_an_older_dxtbx_cannot_read(tmp_cwd, monkeypatch):
    sim.write_expt("new.expt", sim.sweep())
    sim.edit_expt("new.expt", "scan", 0, table_scan().to_dict())
    with pytest.raises(KeyError):
        theirs.ExperimentListFactory.from_json_file("new.expt", check_format=False)
    for read in (expt_guard.check_file, compared_files.read_experiments):
        with pytest.raises(Sorry, match=r"new.expt was written by dxtbx 3\.18 or newer"):
            read("new.expt")
    with pytest.raises(Sorry, match=r"was written by dxtbx 3\.18 or newer"):
        live_list.read("new.expt", Trusted.of("x.nbexpt"))
    monkeypatch.setattr(dxtbx_versions, "scans_are_tables", lambda: True)
    expt_guard.check_file("new.expt")


# --- 3.22: pickles


class Bomb:
    """What runs when it is unpickled: it makes a file."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("bang"),)


@pytest.fixture
def bomb(tmp_cwd, monkeypatch) -> str:
    """A list whose mask is one, and a dxtbx that loads it unasked."""
    monkeypatch.setattr(theirs.ExperimentListDict, "_load_pickle_path", newer.load_pickle_path)
    Path("mask.pickle").write_bytes(pickle.dumps(Bomb()))
    sim.write_expt("list.expt", sim.sweep(), images=True)
    return sim.edit_expt("list.expt", "imageset", 0, "mask", "mask.pickle")


def test_the_bomb_goes_off_in_dxtbx(bomb):
    theirs.ExperimentListFactory.from_json_file(bomb, check_format=False)
    assert Path("bang").exists()


@pytest.mark.parametrize("pad", ["", " " * 9000])
@pytest.mark.parametrize("where", [".", "elsewhere"])
def test_masks_that_dxtbx_would_unpickle_are_looked_at_before(bomb, pad, where):
    """By all that read lists; from 3.24 on dxtbx falls back on the working directory for files that
    are not beside the list (serialize/filename.py)."""
    Path(where).mkdir(exist_ok=True)
    name = f"{where}/list.expt"
    Path(name).write_text(pad + Path(bomb).read_text())
    Path("a.phil").write_text(f"input {{\n  experiments = {name}\n}}\n")

    def parsed(*args: str) -> Any:
        return arguments.parse_command([*args], adapt.master_scope(), "nanobragg.simulate x", "")

    readers = {
        "simulate": lambda: parsed(name),
        "by its name": lambda: parsed(f"input.experiments={name}"),
        "in a PHIL file": lambda: parsed("a.phil"),
        "view": lambda: view_images.load([name]),
        "compare": lambda: compared_files.read_experiments(name),
        "guard": lambda: expt_guard.check_file(name),
    }
    for read in readers.values():
        with pytest.raises(Sorry, match="is not a mask as DIALS writes it"):
            read()
    Path("a.phil").write_text("input.experiments = $x\n")
    with pytest.raises(Sorry, match="name the file itself"):
        parsed("a.phil")
    assert not Path("bang").exists()


def test_a_live_file_with_such_a_mask(bomb):
    with pytest.raises(Sorry, match="is not a mask as DIALS writes it"):
        live_list.read("list.expt", Trusted.of("x.nbexpt"))
    assert not Path("bang").exists()


def test_a_mask_that_dxtbx_loads_unasked_is_used(bomb):
    """The same pixels are masked as where dxtbx leaves the file to us."""
    mask = flex.bool(flex.grid(18, 24), True)
    mask[3, 5] = False
    Path("mask.pickle").write_bytes(pickle.dumps((mask,)))
    params, _, listed, _ = arguments.parse_command(
        [bomb, *sim.QUICK], adapt.master_scope(), "nanobragg.simulate x", ""
    )
    assert not listed[0].imageset.external_lookup.mask.data.empty()
    (good,) = load.lookup(listed[0]).mask
    assert np.argwhere(~good).tolist() == [[3, 5]]


# --- 3.26: history, unsigned data


def test_who_wrote_an_experiment_list(tmp_cwd, monkeypatch):
    def version(name: str) -> str:
        if name != "nanobragg":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(experiments, "ExperimentList", newer.ListWithHistory)
    monkeypatch.setattr(importlib.metadata, "version", version)
    experiments.write_experiments("a.expt", [sim.sweep()])
    experiments.write_experiments("b.expt", [sim.sweep()], "nanobragg.classic")
    (a,), (b,) = (json.loads(Path(name).read_text())["history"] for name in ("a.expt", "b.expt"))
    assert a.split("|")[1:] == ["nanobragg.simulate", "v1.2.3"]
    assert b.split("|")[1:] == ["nanobragg.classic", "v1.2.3"]
    # and this dxtbx reads a list with a history
    listed = theirs.ExperimentListFactory.from_json_file("a.expt", check_format=False)
    assert len(listed) == 1
    monkeypatch.setattr(dxtbx_versions, "DISTRIBUTION", "no-such-distribution")
    experiments.write_experiments("c.expt", [sim.sweep()])
    assert json.loads(Path("c.expt").read_text())["history"][0].endswith("|v?")


def test_commands_belong_to_the_distribution_that_is_named():
    """dxtbx looks for the distribution of a command's name up to its first dot (as_json)."""
    config = configparser.ConfigParser()
    config.read(Path(__file__).resolve().parents[1] / "setup.cfg")
    assert config["metadata"]["name"] == dxtbx_versions.DISTRIBUTION
    scripts = config["options.entry_points"]["console_scripts"].split("\n")
    commands = [line.split("=")[0].strip() for line in scripts if line.strip()]
    assert commands and {name.split(".")[0] for name in commands} == {dxtbx_versions.DISTRIBUTION}


def test_pixels_may_be_unsigned():
    """3.26, image.h: raw data of unsigned int stay what they are. Above the range, masked, good."""
    detector = sim.detector()
    data, good = flex.uint32(flex.grid(18, 24)), flex.bool(flex.grid(18, 24), True)
    data[0, 1], data[0, 2], data[0, 3] = 4_000_000_000, 5, 1_000_000
    good[0, 1] = good[0, 2] = False
    imageset = SimpleNamespace(
        get_raw_data=lambda index: (data,),
        get_mask=lambda index: (good,),
        get_detector=lambda index: detector,
    )
    (values,), (bad,), (over,) = view_images.read(imageset, 0)
    assert values.dtype == np.float32 and values[0, 1] == np.float32(4e9)
    assert np.argwhere(over).tolist() == [[0, 1]] and np.argwhere(bad).tolist() == [[0, 2]]
    # to an inclusive range its upper end is a value as others
    assert not over[0, 3] and values[0, 3] == 1e6
