# ruff: noqa: E402
"""Live files: images that are simulated as they are read are those that are written, to the bit.

Expected values are those of the NXmx file that nanobragg.simulate writes of the same parameters.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import live_helpers as lh
import miller_files as mf
import simulate_helpers as sim
from dials.array_family import flex
from dxtbx.model import Scan
from test_simulate_parameters import small_cell

from nanobragg_plugin.format import live_text
from nanobragg_plugin.format.FormatNanoBraggLive import FormatNanoBraggLive
from nanobragg_plugin.format.FormatNXmxNanoBragg import FormatNXmxNanoBragg
from nanobragg_plugin.run import live_process

MODELS = "beam", "detector", "goniometer", "scan"


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process keeps of live files is what a test makes."""
    monkeypatch.setattr(live_process, "_process", None)


def pdb() -> None:
    Path("model.pdb").write_text(mf.structure("P 1").as_pdb_file())


# ---- the same images


NOISE = ("noise.readout_noise_adu=2", "noise.flicker=0.1", "noise.calibration=0.05",
         "noise.zingers=3", "noise.seed=7", "detector.quantum_gain=2")  # fmt: skip
CASES = {
    "a sweep from image 11 on": (lambda: [sim.sweep()], sim.QUICK),
    "all kinds of noise": (lambda: [sim.sweep()], (*sim.QUICK, *NOISE)),
    "expected photons": (lambda: [sim.sweep()], (*sim.QUICK, "noise.poisson=False")),
    "several panels": (lambda: [sim.sweep(detector=sim.detector(3))], sim.QUICK),
    "some of the images": (lambda: [sim.sweep()], (*sim.QUICK, "sampling.image_range=12,13")),
    "two crystals": (
        lambda: sim.lattices(),
        (
            *sim.QUICK,
            "crystal.lattice_scales=1,2",
            "crystal.mosaic.spread_deg=0.3",
            "crystal.mosaic.domains=3",
        ),
    ),  # fmt: skip
    "a still": (lambda: [sim.still()], sim.STILL),
    "images that do not turn": (lambda: [sim.sweep(scan=Scan((4, 6), (30.0, 0.0)))], sim.STILL),
    "a mask": (
        lambda: [sim.sweep()],
        (*sim.QUICK, "sampling.roi=2,20,1,15", "detector.bad_pixels.dead=0.05"),
    ),
    "gaps": (
        lambda: [sim.sweep()],
        (*sim.QUICK, "detector.gaps.module_size=11,18", "detector.gaps.width=2,0"),
    ),
    "a spectrum": (
        lambda: [sim.sweep()],
        (
            *sim.QUICK,
            "beam.spectrum.shape=gaussian",
            "beam.spectrum.fwhm_percent=1",
            "beam.spectrum.samples=3",
        ),
    ),  # fmt: skip
    "a changed geometry": (lambda: [sim.sweep()], (*sim.QUICK, "geometry.beam.wavelength=1.1")),
    "kernel dense": (lambda: [sim.sweep()], (*sim.QUICK, "compute.kernel=dense")),
}


@pytest.mark.parametrize("case", CASES)
def test_same_as_written(case: str, tmp_cwd: Path) -> None:
    """Pixels to the bit, whichever image is asked for first; models, mask and spectrum."""
    experiments, lines = CASES[case]
    live = lh.both(*lines, experiments=experiments())
    written = FormatNXmxNanoBragg("simulated.nxs")
    images = written.get_num_images()
    assert live.get_num_images() == images
    order = [*reversed(range(images)), 0]
    lh.assert_same_images(live, written, order)
    (ours, *_), (theirs, *_) = lh.imported("live.nbexpt"), lh.imported("simulated.nxs")
    assert ours.imageset.get_format_class() is FormatNanoBraggLive
    for name in MODELS:
        assert getattr(ours, name) == getattr(theirs, name)
    if live.get_scan() is not None:
        assert live.get_scan().get_image_range() == written.get_scan().get_image_range()
    assert [c == w for c, w in zip(live.get_crystals(0), written.get_crystals(0))].count(False) == 0
    assert len(live.get_crystals(0)) == len(written.get_crystals(0))
    for one, other in zip(ours.imageset.get_mask(0), theirs.imageset.get_mask(0)):
        np.testing.assert_array_equal(one.as_numpy_array(), other.as_numpy_array())
    ours, theirs = live.get_spectrum(0), written.get_spectrum(0)
    assert (ours is None) == (theirs is None) == (case != "a spectrum")
    if ours is not None:
        for name in ("get_energies_eV", "get_weights"):
            one, other = (np.array(getattr(of, name)()) for of in (ours, theirs))
            np.testing.assert_allclose(one, other, rtol=1e-12)  # measured: equal
    assert any(len(np.unique(panel)) > 5 for panel in lh.arrays(live.get_raw_data(0)))


def test_stills(tmp_cwd: Path) -> None:
    """Models of their own for each; asked for in any order."""
    lines = (
        *sim.STILL, "stills.count=5", "stills.cell_sigma_percent=1",
        "stills.domain_sigma_percent=40",
        "stills.fluence_sigma_percent=30", "stills.direction_sigma_mrad=1",
        "stills.wavelength_sigma_percent=0.5",
    )  # fmt: skip
    live = lh.both(*lines, experiments=[sim.still()])
    written = FormatNXmxNanoBragg("simulated.nxs")
    assert live.get_num_images() == 5 and live.get_scan() is None
    lh.assert_same_images(live, written, [3, 0, 4, 1, 2, 3])
    ours, theirs = lh.imported("live.nbexpt"), lh.imported("simulated.nxs")
    assert len(ours) == 5
    for index, (one, other) in enumerate(zip(ours, theirs)):
        assert one.beam == other.beam and one.detector == other.detector
        assert live.get_crystal(index) == written.get_crystal(index)
    assert len({e.beam.get_wavelength() for e in ours}) == 5


def test_files_beside_it(tmp_cwd: Path) -> None:
    """Amplitudes of a model, a mask and a measured background, named from the file's folder."""
    folder = tmp_cwd / "data"
    folder.mkdir()
    os.chdir(folder)
    pdb()
    np.save("flat.npy", np.full((18, 24), 5.0))
    lines = [line for line in sim.QUICK if "default_F" not in line and "level" not in line]
    lines += ["structure_factors.file=model.pdb", "background.image_file=flat.npy"]
    lh.both(*lines, experiments=[sim.sweep(crystal=small_cell())])
    os.chdir(tmp_cwd)
    live, written = FormatNanoBraggLive("data/live.nbexpt"), "data/simulated.nxs"
    lh.assert_same_images(live, FormatNXmxNanoBragg(written), [1, 0])


def test_preset(tmp_cwd: Path) -> None:
    """All but the amplitudes from a preset; without a list."""
    live = lh.both(
        "preset=jungfrau_4m", "structure_factors.default_F=100", "sampling.roi=1,4,1,3,2",
        "sampling.oversample=1", "sampling.thicksteps=1", "crystal.mosaic.domains=1",
    )  # fmt: skip
    lh.assert_same_images(live, FormatNXmxNanoBragg("simulated.nxs"), [0])


def test_preset_beside_a_list(tmp_cwd: Path) -> None:
    """Its geometry is not used, as nanobragg.simulate has it; what else it says is."""
    lines = ("preset=pilatus_6m", *sim.QUICK)
    live = lh.both(*lines, experiments=[sim.sweep()])
    lh.assert_same_images(live, FormatNXmxNanoBragg("simulated.nxs"), [0])
    assert live.get_detector()[0].get_image_size() == (24, 18)


def test_one_of_several_sweeps(tmp_cwd: Path) -> None:
    """Sweeps have noise of their own: the second is that of the second file."""
    experiments = [sim.sweep(), sim.sweep(scan=sim.scan(1, 2), identifier="two")]
    live = lh.both(*sim.QUICK, "input.sweep=2", experiments=experiments)
    written = FormatNXmxNanoBragg("simulated_2.nxs")
    assert live.get_num_images() == 2
    lh.assert_same_images(live, written, [1, 0])


# ---- dxtbx and DIALS


def test_image_numbers(tmp_cwd: Path) -> None:
    """An .expt of images 11 to 13, and slices of it, find their frames."""
    lh.both(*sim.QUICK, experiments=[sim.sweep()])
    lh.imported("live.nbexpt").as_file("imported.expt")
    written = FormatNXmxNanoBragg("simulated.nxs")
    with lh.ifh.registry(True):
        (after,) = sim.load("imported.expt", check_format=True)
        assert after.imageset.get_array_range() == (10, 13)
        one = after.imageset[11:12]  # by array index, as find_spots slices
        assert one.get_array_range() == (11, 12)
        for imageset, index, frame in ((after.imageset, 2, 2), (one, 0, 1)):
            (raw,), (other,) = imageset.get_raw_data(index), written.get_raw_data(frame)
            np.testing.assert_array_equal(raw.as_numpy_array(), other.as_numpy_array())


def test_dials_finds_the_same_spots(tmp_cwd: Path) -> None:
    """dials.import and dials.find_spots in two processes, as of the written file in one; find_spots
    in two forked processes does not hang."""
    detector = sim.detector()
    detector[0].set_image_size((120, 100))
    detector[0].set_pixel_size((0.1, 0.12))
    lines = [line for line in sim.QUICK if "spot_scale" not in line and "Ncells" not in line]
    lines += ["crystal.Ncells_abc=20,18,15", "crystal.spot_scale=200", "noise.seed=3"]
    lh.both(*lines, experiments=[sim.sweep(detector=detector, scan=sim.scan(11, 8))])
    find = ("d_max=None", "min_spot_size=2")
    out = lh.dials(
        ("dials_import", "live.nbexpt", "output.experiments=live.expt"),
        ("find_spots", "live.expt", "output.reflections=live.refl", "nproc=2", *find),
        ("dials_import", "simulated.nxs", "output.experiments=nxmx.expt"),
        ("find_spots", "nxmx.expt", "output.reflections=nxmx.refl", "nproc=1", *find),
    )
    assert "FormatNanoBraggLive" in out
    ours, theirs = (flex.reflection_table.from_file(f"{name}.refl") for name in ("live", "nxmx"))
    spots = [sorted(table["xyzobs.px.value"]) for table in (ours, theirs)]
    assert len(spots[0]) > 30 and spots[0] == spots[1]
    assert sorted(ours["intensity.sum.value"]) == sorted(theirs["intensity.sum.value"])


def test_understand(tmp_cwd: Path) -> None:
    """No exception, whatever the file is, and of no other kind than live files."""
    assert FormatNanoBraggLive.understand(lh.write())
    for name, content in (("empty", b""), ("other.nbexpt", b"# nanobragg"), ("bin", b"\0" * 300)):
        Path(name).write_bytes(content)
        assert not FormatNanoBraggLive.understand(name)
    Path("folder").mkdir()
    os.mkfifo("fifo")
    Path("closed").write_text(lh.FIRST)
    Path("closed").chmod(0)
    for name in ("none", "folder", "fifo", "no\0name", None):
        assert not FormatNanoBraggLive.understand(name)
    if os.getuid():
        assert not FormatNanoBraggLive.understand("closed")


def test_understand_is_cheap(tmp_cwd: Path) -> None:
    """It neither imports torch nor takes 50 ms, however large the file."""
    lh.write()
    with open("live.nbexpt", "ab") as stream:
        stream.truncate(1 << 31)  # sparse
    done = lh.python(
        "import sys, time\n"
        "from nanobragg_plugin.format.FormatNanoBraggLive import FormatNanoBraggLive as Live\n"
        "before = time.perf_counter()\n"
        "assert Live.understand('live.nbexpt')\n"
        "assert time.perf_counter() - before < 0.05\n"  # measured: 0.05 ms
        "assert 'torch' not in sys.modules\n"
        "assert not [n for n in sys.modules if n.startswith('nanobragg_plugin.run')]\n"
    )
    assert done.returncode == 0, done.stderr


def test_no_other_format_claims_it(tmp_cwd: Path) -> None:
    """dxtbx without this package knows no image in it; with it, ours alone."""
    sim.write_expt("models.expt", sim.sweep())
    lh.write("input.experiments=models.expt", *sim.QUICK)
    from dxtbx.format import Registry

    with lh.ifh.registry(False):
        assert Registry.get_format_class_for_file("live.nbexpt") is None
    with lh.ifh.registry(True):
        assert Registry.get_format_class_for_file("live.nbexpt") is FormatNanoBraggLive


# ---- what a process keeps


def test_opening_renders_nothing(tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models and mask come without amplitudes: their file is not read before the first image."""
    from nanobragg_plugin.adapters import anomalous

    pdb()
    sim.write_expt("models.expt", sim.sweep(crystal=small_cell()))
    lines = [line for line in sim.QUICK if "default_F" not in line]
    lh.write("input.experiments=models.expt", "structure_factors.file=model.pdb", *lines)
    read = []
    before = anomalous.amplitudes_of_beam
    monkeypatch.setattr(
        anomalous, "amplitudes_of_beam", lambda *args: read.append(1) or before(*args)
    )
    live = FormatNanoBraggLive("live.nbexpt")
    live.get_beam(), live.get_static_mask(), live.get_spectrum()
    assert lh.imported("live.nbexpt")[0].scan.get_image_range() == (11, 13)
    assert not read
    live.get_raw_data(0), live.get_raw_data(1)
    FormatNanoBraggLive("live.nbexpt").get_raw_data(2)
    assert read == [1]


def test_images_are_kept(tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last ones, up to so many bytes; each is rendered again after that, the same. Who gets
    them may change them."""
    rendered = []
    from nanobragg_plugin.run.images import Images

    before = Images.expected
    monkeypatch.setattr(
        Images, "expected", lambda self, index: rendered.append(index) or before(self, index)
    )
    lh.both(*sim.QUICK, experiments=[sim.sweep()])
    live = FormatNanoBraggLive("live.nbexpt")
    rendered.clear()
    (first,) = live.get_raw_data(0)
    wanted = first.as_numpy_array().copy()
    first *= 0
    for _ in range(3):
        (again,) = live.get_raw_data(0)
    np.testing.assert_array_equal(again.as_numpy_array(), wanted)
    assert rendered == [0]
    live_process.process().kept_bytes = 2 * wanted.nbytes  # of two images
    for index in (1, 2, 1, 2, 0):
        live.get_raw_data(index)
    assert rendered == [0, 1, 2, 0]


def test_a_changed_file(tmp_cwd: Path) -> None:
    """An image set that is open says so; opened anew it has the new images."""
    live = lh.both(*sim.QUICK, experiments=[sim.sweep()])
    (before,) = lh.arrays(live.get_raw_data(0))
    lh.write("input.experiments=models.expt", *sim.QUICK, "noise.seed=8")
    with pytest.raises(sim.Sorry, match="has changed: open it again"):
        live.get_raw_data(1)
    (after,) = lh.arrays(FormatNanoBraggLive("live.nbexpt").get_raw_data(0))
    assert (before != after).any()
    sim.simulate("models.expt", *sim.QUICK, "noise.seed=8", "output.prefix=anew")
    np.testing.assert_array_equal(after, sim.pixels("anew.nxs")[0])


def test_processes_that_fork(tmp_cwd: Path) -> None:
    """A parent that rendered with two threads forks while one of its threads renders: the children
    neither hang nor render anything else."""
    lh.both(*sim.QUICK, "compute.kernel=dense", experiments=[sim.sweep(scan=sim.scan(1, 6))])
    done = lh.python(
        "import torch\n"
        "import multiprocessing, threading\n"
        "import numpy as np\n"
        "from nanobragg_plugin.format.FormatNanoBraggLive import FormatNanoBraggLive as Live\n"
        "torch.set_num_threads(2)\n"
        "live = Live('live.nbexpt')\n"
        "live.get_raw_data(0)\n"
        "torch.ones(3000, 3000).sum()\n"  # OpenMP's threads
        "def read(i): return live.get_raw_data(i)[0].as_numpy_array(), torch.get_num_threads()\n"
        "thread = threading.Thread(target=lambda: [live.get_raw_data(i) for i in (4, 5)])\n"
        "thread.start()\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    found = pool.map(read, range(6), chunksize=1)\n"
        "thread.join()\n"
        "assert {threads for _, threads in found} == {1}\n"
        "np.save('found.npy', [image for image, _ in found])\n"
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load("found.npy"), sim.pixels())


def test_threads(tmp_cwd: Path) -> None:
    """Several threads of a process that read at once."""
    live = lh.both(*sim.QUICK, experiments=[sim.sweep(scan=sim.scan(1, 6))])
    found: dict[int, np.ndarray] = {}

    def read(index: int) -> None:
        found[index] = lh.arrays(live.get_raw_data(index))[0]

    threads = [threading.Thread(target=read, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal([found[index] for index in range(6)], sim.pixels())


def test_number_of_threads(tmp_cwd: Path) -> None:
    """compute.nthreads acts, and changes no bit."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        live = lh.both(*sim.QUICK, experiments=[sim.sweep()])
        lh.write("input.experiments=models.expt", *sim.QUICK, "compute.nthreads=1")
        live = FormatNanoBraggLive("live.nbexpt")
        lh.assert_same_images(live, FormatNXmxNanoBragg("simulated.nxs"), [2])
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_no_such_image(tmp_cwd: Path) -> None:
    live = lh.both(*sim.QUICK, experiments=[sim.sweep()])
    with pytest.raises(IndexError, match="image 3 of 3"):
        live.get_raw_data(3)


def test_version() -> None:
    assert lh.FIRST == f"{live_text.MAGIC.decode()}{live_text.VERSION}\n"
