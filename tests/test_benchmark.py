# ruff: noqa: E402
"""nanobragg.benchmark: its cases are those of issue 4, its figures follow from its times."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import classic_helpers
import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.command_line import benchmark as command
from nanobragg_plugin.run import benchmark, benchmark_report, benchmark_sweep
from nanobragg_plugin.run import benchmark_cases as cases
from nanobragg_plugin.run.benchmark_processes import NanoBraggC, Worker

#: Of the issue: steps of an image, cells along an edge, sources, phi steps, domains.
ISSUE = {
    "B1": (1024 * 1024 * 10, 30, 1, 10, 1),
    "B2": (1024 * 1024 * 100, 30, 1, 10, 10),
    "B3": (2527 * 2463 * 10, 50, 1, 10, 1),
    "B4": (1024 * 1024 * 100, 30, 100, 1, 1),
    "B5": (1024 * 1024 * 100, 30, 1, 10, 10),
    "production": (2463 * 2527 * 100, 100, 1, 10, 10),
    "production_1000": (2463 * 2527 * 100, 1000, 1, 10, 10),
}


@pytest.fixture
def folder(tmp_cwd: Path) -> Path:
    """The working folder, with few amplitudes where a run has all of them."""
    lines = [
        f"{h} {k} {l} {300 + 7 * h + 3 * k + l}\n"
        for h in range(-20, 21)
        for k in range(-20, 21)
        for l in range(-6, 7)
    ]
    (tmp_cwd / cases.HKL).write_text("".join(lines))
    return tmp_cwd


# ---- the cases


@pytest.mark.parametrize("name", ISSUE)
def test_cases_are_the_issues(folder: Path, name: str) -> None:
    steps, ncells, sources, phisteps, domains = ISSUE[name]
    work = cases.work(cases.CASES[name], folder, 1.0, {})
    assert set(ISSUE) == set(cases.CASES)
    experiment, crystal = work.experiment, work.experiment.crystal
    assert work.steps == steps
    assert crystal.Ncells_abc.tolist() == [ncells] * 3
    assert crystal.xtal_shape == ("square" if name in ("B1", "B2", "B3", "B4") else "gauss")
    assert len(experiment.beam.weight) == sources
    assert len(work.exposure.phi) == phisteps
    assert crystal.umats.shape == (domains, 3, 3)
    assert work.options.oversample == 1
    (panel,) = experiment.panels
    assert panel.pixel_size.tolist() == pytest.approx([0.172, 0.172], rel=1e-12)
    assert panel.shape == cases.shape_of(cases.CASES[name])
    assert math.prod(panel.shape) * sources * phisteps * domains == steps
    distance = abs(float((panel.origin * panel.normal).sum()))
    assert distance == pytest.approx(300 if "production" in name else 150, rel=1e-9)


def test_scan_spectrum_and_cell_of_the_cases(folder: Path) -> None:
    work = cases.work(cases.CASES["B1"], folder, 1.0, {})
    degrees = np.rad2deg(work.exposure.phi)
    assert degrees == pytest.approx(np.arange(10) * 0.05, abs=1e-12)  # 0.5 degrees in 10 steps
    lengths = torch.linalg.vector_norm(work.experiment.crystal.A[0], dim=0)  # a*, b*, c*
    assert (1 / lengths).tolist() == pytest.approx([79.1, 79.1, 38.4], rel=1e-9)
    still = cases.work(cases.CASES["B4"], folder, 1.0, {})
    wavelengths = still.experiment.beam.wavelength.flatten()
    assert float(wavelengths.max() / wavelengths.min()) == pytest.approx(1.005, abs=2e-5)
    assert float(wavelengths.mean()) == pytest.approx(0.9795, rel=1e-4)
    domains = cases.work(cases.CASES["B2"], folder, 1.0, {}).experiment.crystal.umats
    angles = torch.arccos(((domains.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(max=1))
    assert 0 < math.degrees(angles.max()) <= 0.1


def test_amplitudes() -> None:
    """Against the volume of the sphere over that of a cell of the reciprocal lattice, Wilson's
    <I^2>/<I>^2 = 2 of acentric reflections, and <I> ~ exp(-2 B (sin theta/lambda)^2)."""
    indices, values = cases.amplitudes()
    volume = 79.1 * 79.1 * 38.4
    assert len(values) == pytest.approx(4 / 3 * math.pi / 1.8**3 * volume, rel=2e-3)
    assert len(values) == pytest.approx(172410, rel=2e-3)  # the issue's number
    stol_sqr = ((indices / np.array([79.1, 79.1, 38.4])) ** 2).sum(1) / 4
    assert 1.8 <= 1 / (2 * np.sqrt(stol_sqr.max())) < 1.81
    found = {tuple(hkl): F for hkl, F in zip(indices.tolist(), values.tolist())}
    assert len(found) == len(values) and (0, 0, 0) not in found
    assert all(found[-h, -k, -l] == F for (h, k, l), F in found.items())
    shells = np.array_split(np.argsort(stol_sqr), 20)
    means = np.array([(values[shell] ** 2).mean() for shell in shells])
    moments = np.array([(values[shell] ** 4).mean() for shell in shells]) / means**2
    # of 4300 independent reflections a shell: 4 standard deviations are 0.3
    assert moments == pytest.approx(np.full(20, 2.0), abs=0.3)
    slope = np.polyfit([stol_sqr[shell].mean() for shell in shells], np.log(means), 1)[0]
    assert slope == pytest.approx(-2 * 20, abs=2)
    again = cases.amplitudes()
    assert (again[0] == indices).all() and (again[1] == values).all()


def test_the_file_of_amplitudes(tmp_cwd: Path) -> None:
    cases.write_amplitudes(tmp_cwd)
    lines = np.loadtxt(tmp_cwd / cases.HKL)
    indices, values = cases.amplitudes()
    assert (lines[:, :3] == indices).all()
    assert np.abs(lines[:, 3] - values).max() <= 0.0005001  # three decimals


@pytest.mark.parametrize("name", ISSUE)
@pytest.mark.parametrize("small", [1e-6, 0.01, 0.3])
def test_a_part_of_the_detector(name: str, small: float) -> None:
    slow, fast = cases.shape_of(cases.CASES[name])
    word, *bounds = cases.roi_words(cases.CASES[name], small)
    first_fast, last_fast, first_slow, last_slow = map(int, bounds)
    assert word == "-roi"
    assert 0 <= first_fast <= last_fast < fast and 0 <= first_slow <= last_slow < slow
    pixels = (last_fast - first_fast + 1) * (last_slow - first_slow + 1)
    assert pixels == pytest.approx(small * slow * fast, rel=0.02, abs=4)
    one = cases.one_pixel_words(cases.CASES[name], small)
    assert one == ["-roi", *bounds[:1] * 2, *bounds[2:3] * 2]
    assert cases.roi_words(cases.CASES[name], 1.0) == []
    assert cases.one_pixel_words(cases.CASES[name], 1.0) == ["-roi", "0", "0", "0", "0"]


def test_the_sweep_is_of_production(folder: Path) -> None:
    plan = benchmark_sweep.plan_of(folder, 1.0, 3, {"precision": "mixed"})
    assert plan.n_images == 3
    crystal = plan.experiment.crystal
    assert crystal.xtal_shape == "gauss" and crystal.Ncells_abc.tolist() == [100] * 3
    assert len(crystal.umats) == 10
    phi = np.rad2deg([plan.exposure(i).phi for i in range(3)])  # [image, step]
    assert phi.ravel() == pytest.approx(0.005 + 0.01 * np.arange(30), abs=1e-9)
    # 1e11 photons/s, 0.1 s, (0.05 mm)^2; (0.05 mm)^3 over 100^3 cells of 240261.504 A^3
    fluence = float(plan.experiment_of_image(2).beam.fluence)
    assert fluence == pytest.approx(4e18, rel=1e-12)
    assert float(crystal.spot_scale) == pytest.approx(1.25e17 / (1e6 * 240261.504), rel=1e-6)


# ---- the figures


def test_times_of_the_c_program() -> None:
    record = benchmark.c_record([(3.0, 0.5), (2.0, 0.25), (5.0, 0.75)])
    assert record["images_s"] == [2.5, 1.5, 4.5]
    assert (record["best_s"], record["median_s"]) == (1.5, 2.5)
    assert benchmark.c_record([(0.2, 0.3)])["best_s"] == 0


def test_rates() -> None:
    run = {"kernel": "dense", "threads": 1, "images_s": [0.5, 0.25, 1.0]}
    rates = benchmark.with_rates(run, 10_000_000, {"best_s": 2.0, "median_s": 3.0})
    assert (rates["best_s"], rates["median_s"]) == (0.25, 0.5)
    assert (rates["ns_per_step"], rates["images_per_s"]) == (25, 4)
    assert (rates["speedup_best"], rates["speedup_median"]) == (8, 6)
    # nanoBragg.c has one thread
    two = benchmark.with_rates({**run, "threads": 2}, 10, {"best_s": 2.0, "median_s": 3.0})
    assert "speedup_best" not in two
    assert "speedup_best" not in benchmark.with_rates(run, 10, None)


def test_differences() -> None:
    assert cases.largest_difference(np.array([1.0, 3.0]), np.array([2.0, -4.0])) == 7 / 4
    assert cases.largest_difference(np.array([1.0]), np.array([0.0])) is None


def test_extrapolation() -> None:
    times = benchmark_sweep.summary(5.0, [1.0, 3.0], 0.5)
    assert times["whole_s_extrapolated"] == 5 + 3599 * 2 + 0.5


def test_report() -> None:
    of_all = {"median_s": 0.6, "ns_per_step": 4.0, "images_per_s": 2.0}
    of_sparse = {"from_dense_of_max": 2e-7, "tolerance_of_max": 1e-6}
    runs = [
        {**of_all, "kernel": "dense", "threads": 1, "best_s": 0.5, "peak_mb": 321.0},
        {**of_all, "kernel": "sparse", "threads": 2, "best_s": 0.2, **of_sparse},
        {**of_all, "kernel": "dense", "threads": 2, "best_s": 0.25, "speedup_best": 31.0},
    ]
    record = {"case": "B1", "what": "a case", "steps": 12_500_000, "runs": runs, "c": None}
    lines = benchmark_report.block(record).splitlines()
    assert lines[1] == "B1: a case; 12.5 million steps"
    first, second, third = (line.split() for line in lines[3:6])
    assert first[0] == "dense" and "321" in first and "31" in third
    assert second[-2:] == ["2.0e-07", "0.20"]  # 2e-7 of the maximum, a fifth of the tolerance
    assert len({len(line) for line in lines[2:6]}) == 1  # the columns stand below each other
    assert lines[-1] == "dense: 2 threads are 2.00 times one"


def test_cpu_model(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: A CPU @ 3 GHz\nflags\t\t: sse avx2 fma\n\n")
    assert benchmark_report.cpu_model(path) == "A CPU @ 3 GHz (avx2)"
    assert benchmark_report.cpu_model(tmp_path / "none")


# ---- the programs


def program(folder: Path, *commands: str) -> str:
    """A shell script in place of nanoBragg.c."""
    path = folder / "nanoBragg"
    path.write_text("\n".join(["#!/bin/sh", *commands]) + "\n")
    path.chmod(0o755)
    return str(path)


def test_the_c_programs_command_line(folder: Path) -> None:
    """Words with a folder would be taken for flags: nanoBragg.c looks for `-N` within them."""
    script = program(folder, 'echo "$@" "threads $OMP_NUM_THREADS" >>words.txt', ": >f.bin")
    NanoBraggC(script, folder).seconds(cases.CASES["B5"], 0.01)
    one, part = ((folder / "words.txt").read_text()).splitlines()
    for line in (one, part):
        assert "-gauss_xtal" in line and "-hkl P1.hkl" in line and "/" not in line
        assert line.endswith("threads 1")
    # 102 pixels along an edge; 0.75 x (1024 - 102) = 691.5, rounded to the even number
    assert "-roi 692 692 692 692" in one and "-roi 692 793 692 793" in part
    assert "-gauss_xtal" not in cases.CASES["B1"].c_words


def test_programs_that_are_not_nanobragg_c(folder: Path) -> None:
    case = cases.CASES["B1"]
    with pytest.raises(Sorry, match="there is no such program"):
        NanoBraggC("nosuch", folder)
    with pytest.raises(Sorry, match="exit status 3, what is this"):
        NanoBraggC(program(folder, "echo what is this >&2", "exit 3"), folder).run([])
    with pytest.raises(Sorry, match="failed"):
        NanoBraggC(program(folder, ":"), folder).run([])
    few = NanoBraggC(program(folder, "head -c 40 /dev/zero >f.bin"), folder)
    few.run([])
    with pytest.raises(Sorry, match="wrote 10 pixels, not 1024 x 1024"):
        few.photons(case)


def test_a_worker_that_refuses_fails_or_is_killed(tmp_cwd: Path) -> None:
    begin = {"folder": str(tmp_cwd), "small": 0.001, "options": {}}
    with Worker(1, None, case="sweep", **begin) as worker:
        with pytest.raises(Sorry, match=cases.HKL):  # there is no such file
            worker.ask("begin", case="B1", threads=1, **begin)
        with pytest.raises(RuntimeError, match="that was to nosuch failed:(.|\n)*Traceback"):
            worker.ask("nosuch")
    with Worker(1, None, case="sweep", **begin) as worker:
        worker.process.kill()
        worker.process.wait()
        with pytest.raises(Sorry, match="ended by signal 9"):
            worker.ask("first")


# ---- the command


def test_command(tmp_cwd: Path, capsys: pytest.CaptureFixture) -> None:
    """The C program is nanobragg.classic's image of the same command line."""
    case, small = cases.CASES["B1"], 0.0005
    cases.write_amplitudes(tmp_cwd)
    words = [*case.our_words, *cases.roi_words(case, small), "-floatfile", "image.bin"]
    classic_helpers.run(*words, "-phi_carryover_mode", "c-parity")
    script = program(tmp_cwd, f"cp '{tmp_cwd / 'image.bin'}' f.bin")
    args = ["cases=B1,sweep", "kernels=sparse dense", "threads=1", "repeats=2", f"small={small}"]
    args += ["cold=False", "sweep_images=2", f"nanobragg_c={script}", "--json", "speed.json"]
    command.run(args)
    printed = capsys.readouterr().out
    found = json.loads(Path("speed.json").read_text())
    image, sweep = found["cases"]
    dense, sparse = image["runs"]
    assert (dense["kernel"], sparse["kernel"]) == ("dense", "sparse")
    assert image["steps"] == 23 * 23 * 10  # sqrt(0.0005) x 1024 = 22.9 along an edge
    for run in (dense, sparse):
        assert len(run["images_s"]) == 2 and run["best_s"] > 0 and run["peak_mb"] >= 0
        assert run["from_c_of_max"] < 2e-6  # mixed precision, and what sparse may leave out
    assert sparse["from_dense_of_max"] <= 1.05e-6
    assert len(image["c"]["runs_s"]) == 2
    (of_sweep,) = sweep["runs"]
    assert len(of_sweep["further_s"]) == 1 and of_sweep["bytes"] > 0
    assert "extrapolated" in printed and "B1: " in printed and found["machine"]["cpu"] in printed
    assert "\ndevice cpu\n" in printed and found["machine"]["device"] == "cpu"
    assert str(tmp_cwd) not in Path("speed.json").read_text()


def test_what_is_refused(tmp_cwd: Path) -> None:
    for args, why in (
        (["cases=B9"], "cases=B9: choose from B1, "),
        (["kernels=fast"], "kernels=fast: choose from dense, sparse"),
        (["cases="], "cases="),
        (["small=0"], "small=0: it must be positive"),
        (["small=nan"], "small"),
        (["threads=0"], "threads"),
        (["nosuch=1"], "nosuch=1 is not understood"),
        (["models.expt"], "models.expt is not understood"),
        (["--json"], "--json: give a file"),
        (["--json", "small=1"], "--json: give a file"),
        (["--json", "nosuch/x.json"], "there is no folder nosuch"),
        (["nanobragg_c=nosuch"], "there is no such program"),
        (["device=warp"], "device=warp cannot be used here ("),
        (["device=meta"], "device=meta cannot be used here ("),
        (["device=cuda:99"], "device=cuda:99 cannot be used here ("),
        (["device=None"], "device=None: give a value"),
    ):
        with pytest.raises(Sorry) as caught:
            command.run(args)
        message = str(caught.value)
        assert why in message and "\n" not in message
    assert list(tmp_cwd.iterdir()) == []
