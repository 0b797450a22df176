# ruff: noqa: E402
"""The parts of a run: which images, which files, what is kept and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import dxtbx
import simulate_helpers as sim
from dxtbx.format.FormatNXmx import FormatNXmx
from dxtbx.model.experiment_list import ExperimentListFactory
from hypothesis import given
from hypothesis import strategies as st
from libtbx.phil import parse
from libtbx.utils import Sorry

from nanobragg_plugin.command_line import simulate as command
from nanobragg_plugin.run import parts, schedule
from nanobragg_plugin.run.images import Images
from nanobragg_plugin.run.live import LiveImages

LOG = "nanobragg.simulate.log"


@given(st.lists(st.integers(1, 500), min_size=1, max_size=4), st.none() | st.integers(1, 70))
def test_every_image_is_in_one_part(counts: list[int], size: int | None) -> None:
    """In their order, none twice, no part of two files; the very first part is one image."""
    made = parts.parts_of(counts, size)
    images = [(part.file, index) for part in made for index in range(part.first, part.end)]
    assert images == [(file, index) for file, count in enumerate(counts) for index in range(count)]
    assert [part.number for part in made] == list(range(len(made)))
    assert len(made[0]) == 1 and max(map(len, made)) <= (size or parts.MOST_IMAGES)


def test_a_large_run_has_parts_of_many_images() -> None:
    assert len(parts.parts_of([100_000])) == 1564
    assert len(parts.parts_of([100])) == 100


@pytest.fixture
def expt(tmp_cwd: Path) -> str:
    """An experiment list of a sweep of 9 images, from 11 on."""
    return sim.write_expt("models.expt", sim.sweep(scan=sim.scan(images=9)), images=True)


def stop_at(patch: pytest.MonkeyPatch, count: int) -> None:
    """Ctrl-C when so many images have been begun."""
    begun, original = [], Images.expected

    def expected(self, index: int) -> list:
        begun.append(index)
        if len(begun) > count:
            raise KeyboardInterrupt
        return original(self, index)

    patch.setattr(Images, "expected", expected)


def stopped(count: int, *args: str) -> None:
    """A run that ends after so many images."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, count)
        with pytest.raises(SystemExit) as caught:
            sim.simulate(*args)
    assert caught.value.code == 130


def counted(*args: str) -> int:
    """How many images a run simulates."""
    begun, original = [], Images.expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Images, "expected", lambda self, i: (begun.append(i), original(self, i))[1])
        sim.simulate(*args)
    return len(begun)


# ---- files that refer to others


VIRTUAL = ("output.joined=False", "output.images_per_part=4")


def test_a_file_that_refers_to_others_is_the_same_to_readers(expt: str) -> None:
    """By h5py, by our format class and by the stock one; wherever the files go together."""
    more = ("output.expected=True", "output.maps=True")
    sim.simulate(expt, *sim.QUICK, *more)
    sim.simulate(expt, *sim.QUICK, *more, *VIRTUAL, "output.prefix=v")
    names = ["v.nxs", *(f"v_{number:06d}.h5" for number in (1, 2, 3))]
    assert sorted(name for name in os.listdir() if name[:2] in ("v.", "v_")) == sorted(
        [*names, "v.expt", "v.provenance.json"]
    )
    os.mkdir("moved")
    for name in names:
        os.rename(name, f"moved/{name}")
    with h5py.File("simulated.nxs") as whole, h5py.File("moved/v.nxs") as virtual:
        assert virtual["/entry/data/data"].is_virtual and not whole["/entry/data/data"].is_virtual
        found = []
        whole.visititems(lambda name, item: found.append(name))
        for name in found:
            ours, theirs = virtual[name], whole[name]
            assert dict(ours.attrs).keys() == dict(theirs.attrs).keys()
            if isinstance(theirs, h5py.Dataset) and "provenance" not in name:
                assert ours.dtype == theirs.dtype and np.all(ours[()] == theirs[()])
    (experiment,) = ExperimentListFactory.from_filenames(["moved/v.nxs"])
    stock = FormatNXmx("moved/v.nxs")
    for index, expected in enumerate(sim.pixels()):
        for reader in (experiment.imageset.get_raw_data(index), stock.get_raw_data(index)):
            read = reader[0] if isinstance(reader, tuple) else reader
            assert (read.as_numpy_array() == expected).all()
    assert experiment.scan.get_image_range() == (11, 19)


def test_a_part_that_is_lost_is_missed(expt: str) -> None:
    """By our format class; to stock readers its pixels are below what the panel trusts, not 0."""
    sim.simulate(expt, *sim.QUICK, *VIRTUAL)
    os.rename("simulated_000002.h5", "elsewhere.h5")
    with pytest.raises(Sorry, match="1 files that are not beside it, simulated_000002.h5 the fir"):
        dxtbx.load("simulated.nxs")
    assert (sim.pixels()[1:5] == -1).all() and (sim.pixels()[0] >= 0).all()


def test_joined_by_itself_up_to_32_gb(expt: str) -> None:
    """4 bytes a pixel: 9 images of 30000 x 30000 pixels are 32.4e9."""
    large = "geometry.detector.panel.image_size=30000,30000", "sampling.roi=0,3,0,3,0"
    seen = []

    def make(run) -> None:
        seen.append(run.joined)
        raise Sorry("enough")

    for change in (large, ()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(schedule, "make", make)
            with pytest.raises(Sorry, match="enough"):
                sim.simulate(expt, *sim.QUICK, *change)
    assert seen == [False, True]


@pytest.mark.parametrize("form", ["cbf", "smv", "raw"])
def test_files_of_one_image_cannot_be_joined(form: str, expt: str) -> None:
    said = sim.refused(expt, *sim.QUICK, f"output.format={form}", "output.joined=True")
    assert f"output.joined=True does nothing for output.format={form}" in said


@pytest.mark.parametrize("change", ["output.joined=True", "mp.nproc=2", "mp.memory_gb=5"])
def test_live_files_have_no_images_to_make(change: str, expt: str) -> None:
    said = sim.refused(expt, *sim.QUICK, "output.format=live", change)
    assert f"{change} does nothing for output.format=live: leave it away" in said


def test_a_live_file_starts_no_processes(expt: str) -> None:
    sim.simulate(expt, *sim.QUICK, "output.format=live")
    with open("simulated.nbexpt", "a") as file:
        file.write("mp.nproc = 2\n")
    with pytest.raises(Sorry, match="mp.nproc: a live file starts no processes"):
        LiveImages.of("simulated.nbexpt")


def test_part_files_that_exist(expt: str) -> None:
    Path("simulated_000002.h5").write_text("precious")
    said = sim.refused(expt, *sim.QUICK, *VIRTUAL)
    assert said.startswith("simulated_000002.h5 exists: use output.overwrite=True")
    sim.simulate(expt, *sim.QUICK)
    assert Path("simulated_000002.h5").read_text() == "precious"


def test_parts_are_the_same_bytes_whenever_they_are_made(expt: str) -> None:
    """So that two workers may make the same one."""
    for prefix in "ab":
        sim.simulate(expt, *sim.QUICK, *VIRTUAL, f"output.prefix={prefix}")
    for number in (1, 2, 3):
        name = f"_{number:06d}.h5"
        assert Path(f"a{name}").read_bytes() == Path(f"b{name}").read_bytes()


# ---- what is kept


def test_a_run_goes_on_where_it_was_stopped(expt: str) -> None:
    sim.simulate(expt, *sim.QUICK, "output.prefix=whole")
    arguments = (expt, *sim.QUICK, "output.images_per_part=2")
    stopped(6, *arguments)  # image 0, then pairs: of the third pair only one is made
    assert "Stopped: 5 of 9 images are done, and kept in" in Path(LOG).read_text()
    assert counted(*arguments, "mp.nproc=1", "output.preview=first.png") == 4 + 1
    assert "5 of 9 images are there already" in Path(LOG).read_text()
    assert (sim.pixels() == sim.pixels("whole.nxs")).all()
    assert not list(Path().glob("*.parts")) and not list(Path().glob(".*"))


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damage_flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "what, damage",
    [
        *(("simulated_000002.h5", d) for d in (damage_truncate, damage_flip, damage_empty)),
        *(("part_000001.json", d) for d in (damage_truncate, damage_empty, Path.unlink)),
        ("simulated_000002.h5", Path.unlink),
    ],
)
def test_what_is_damaged_is_made_again(what: str, damage, expt: str) -> None:
    """As after a power cut, or a disk that forgets: image 1, and nothing else that was done."""
    sim.simulate(expt, *sim.QUICK, "output.prefix=whole")
    stopped(4, expt, *sim.QUICK)
    damage(Path("simulated.parts") / what)
    assert counted(expt, *sim.QUICK) == 5 + 1
    assert (sim.pixels() == sim.pixels("whole.nxs")).all()


def test_parts_of_another_run_are_refused(expt: str) -> None:
    """What differs is named; nothing is mixed, nothing is removed unless that is wanted."""
    stopped(4, expt, *sim.QUICK)
    before = sim.contents(Path("simulated.parts"))
    said = sim.refused(expt, *sim.QUICK, "crystal.fudge=1.1")
    assert "differed from this one in crystal.fudge: the same command" in said
    sim.edit_expt(expt, "crystal", 0, "real_space_a", [31.0, 0.0, 0.0])
    assert "differed from this one in experiments:" in sim.refused(expt, *sim.QUICK)
    assert sim.contents(Path("simulated.parts")) == before
    assert counted(expt, *sim.QUICK, "output.overwrite=True") == 9
    assert "which another run left" in Path(LOG).read_text()


def test_another_file_of_the_same_name_is_another_run(expt: str) -> None:
    Path("F.hkl").write_text("1 2 3 4\n1 1 1 5\n")
    stopped(4, expt, "F.hkl", *sim.QUICK)
    Path("F.hkl").write_text("1 2 3 4\n1 1 1 6\n")
    assert "in structure_factors.file:" in sim.refused(expt, "F.hkl", *sim.QUICK)


def test_the_last_digits_of_a_parameter_count(expt: str) -> None:
    """libtbx prints ten of them."""
    stopped(4, expt, *sim.QUICK, "crystal.fudge=1.00000000001")
    assert "in crystal.fudge:" in sim.refused(expt, *sim.QUICK, "crystal.fudge=1.00000000002")


def test_who_does_it_does_not_matter(expt: str) -> None:
    """A run may go on with other processes, memory, log and pictures."""
    stopped(4, expt, *sim.QUICK)
    others = ("mp.nproc=1", "mp.memory_gb=50", "output.log=other.log", "output.preview=a.png")
    assert counted(expt, *sim.QUICK, *others, "output.experiments=b.expt") == 5 + 1


def test_two_runs_at_once(expt: str) -> None:
    """A run that finds another one at work says so."""
    fcntl = pytest.importorskip("fcntl")
    stopped(4, expt, *sim.QUICK)
    with open("simulated.parts/lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert "another run is writing to" in sim.refused(expt, *sim.QUICK)
    assert counted(expt, *sim.QUICK) == 5


def test_a_file_in_the_place_of_the_folder(expt: str) -> None:
    Path("simulated.parts").write_text("precious")
    assert "simulated.parts is a file" in sim.refused(expt, *sim.QUICK)


@pytest.mark.parametrize("form", ["nxmx", "cbf", "raw"])
@pytest.mark.parametrize("moved", [0, 1, 2])
def test_stopped_while_files_get_their_names(form: str, moved: int, expt, monkeypatch) -> None:
    """Nothing is simulated again, and what has its name is no obstacle."""
    more = (f"output.format={form}", *(VIRTUAL if form == "nxmx" else ()))
    sim.simulate(expt, *sim.QUICK, *more)
    made = {n: c for n, c in sim.contents(Path.cwd()).items() if n.startswith("simulated")}
    for name in made:
        os.unlink(name)
    replace, count = os.replace, []

    def stop(source, target) -> None:
        if Path(target).suffix in (".nxs", ".h5", ".cbf", ".bin") and ".parts" in str(source):
            if ".parts" not in str(target):
                count.append(target)
                if len(count) > moved:
                    raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(SystemExit):
            sim.simulate(expt, *sim.QUICK, *more)
    assert len(count) == moved + 1
    assert counted(expt, *sim.QUICK, *more) == 0
    after = {n: c for n, c in sim.contents(Path.cwd()).items() if n.startswith("simulated")}
    assert after.keys() == made.keys()
    assert all(after[n] == made[n] for n in made if n.endswith((".h5", ".cbf", ".bin")))


def test_the_provenance_says_nothing_of_who_did_it(expt: str) -> None:
    sim.simulate(expt, *sim.QUICK, "mp.nproc=1", "compute.nthreads=1", "mp.memory_gb=50")
    one = json.loads(Path("simulated.provenance.json").read_text())
    sim.simulate(expt, *sim.QUICK, "output.overwrite=True")
    assert json.loads(Path("simulated.provenance.json").read_text()) == one
    assert command.phil_scope.fetch(parse(one["phil"])).extract().crystal.Ncells_abc == [6, 5, 4]
