"""DIALS's own programs on files of the NXmx writer."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("dials")

from dials.array_family import flex
from dxtbx.format.FormatNXmx import FormatNXmx
from dxtbx.model import BeamFactory, Crystal, Detector, Experiment, Goniometer, Scan
from dxtbx.model.experiment_list import ExperimentListFactory

from nanobragg_plugin.format.FormatNXmxNanoBragg import FormatNXmxNanoBragg
from nanobragg_plugin.format.nxmx_writer import NXmxWriter

SIZES = ((120, 90), (120, 90), (100, 80))  # fast, slow
FIRST, IMAGES = 11, 5
# (panel, fast, slow, image) of the middle of each spot, pixels and images from the corner
SPOTS = [(0, 30.5, 40.5, 2.5), (0, 90.5, 20.5, 1.5), (1, 60.5, 60.5, 2.5), (2, 50.5, 30.5, 3.5)]


def dials(command: str, *arguments, cwd, package="dials") -> str:
    """Run a DIALS command with this Python, which sees this package where the scripts may not."""
    code = f"import sys; from {package}.command_line.{command} import run; run(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def experiment() -> Experiment:
    detector = Detector()
    root = detector.hierarchy()
    root.set_local_frame((1, 0, 0), (0, -1, 0), (-10, 10, -120))
    for i, size in enumerate(SIZES):
        panel = root.add_panel()
        panel.set_name(f"panel {i}")
        panel.set_local_frame((1, 0, 0), (0, 1, 0), (0, i * 12, 0))
        panel.set_image_size(size)
        panel.set_pixel_size((0.1, 0.11))
        panel.set_trusted_range((-1, 60000))
    beam = BeamFactory.make_beam(sample_to_source=(0.05, 0.1, 1), wavelength=1.1)
    beam.set_flux(1e11)
    # the batch offset is what dxtbx makes it for every sequence: DIALS 3.12 slices with it
    scan = Scan((FIRST, FIRST + IMAGES - 1), (10.0, 0.5))
    scan.set_batch_offset(FIRST - 1)
    return Experiment(
        beam=beam,
        detector=detector,
        goniometer=Goniometer((0.8, 0.6, 0)),
        scan=scan,
        crystal=Crystal((50, 0, 0), (0, 60, 0), (0, 0, 70), space_group_symbol="P1"),
    )


def images() -> list:
    """Gaussian spots on a background of 2 counts a pixel, with Poisson noise."""
    rng = np.random.default_rng(0)
    result = []
    for z in range(IMAGES):
        panels = []
        for i, (width, height) in enumerate(SIZES):
            y, x = np.mgrid[:height, :width] + 0.5
            mean = np.full((height, width), 2.0)
            for panel, x0, y0, z0 in SPOTS:
                squared = (x - x0) ** 2 + (y - y0) ** 2 + 4 * (z + 0.5 - z0) ** 2
                mean += (panel == i) * 500 * np.exp(-squared / 3)
            panels.append(rng.poisson(mean))
        result.append(panels)
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dials")
    with NXmxWriter(folder / "sweep.nxs", experiment()) as writer:
        for index, image in enumerate(images()):
            writer.write(index, image)
    dials("dials_import", "sweep.nxs", cwd=folder)
    return folder


def test_import_show_print_header(folder):
    (imported,) = ExperimentListFactory.from_json_file(str(folder / "imported.expt"))
    model = experiment()
    for name in ("beam", "detector", "goniometer", "scan"):
        assert getattr(imported, name) == getattr(model, name)
    assert imported.beam.get_flux() == 1e11
    assert imported.imageset.get_format_class() is FormatNXmxNanoBragg
    assert f"{FIRST},{FIRST + IMAGES - 1}" in dials("show", "imported.expt", cwd=folder)
    header = dials("print_header", "sweep.nxs", cwd=folder, package="dxtbx")
    assert "FormatNXmxNanoBragg" in header


def test_find_spots_in_two_processes(folder):
    dials("find_spots", "imported.expt", "nproc=2", "min_spot_size=3", "d_max=None", cwd=folder)
    found = flex.reflection_table.from_file(str(folder / "strong.refl"))
    positions = [(panel, *xyz) for panel, xyz in zip(found["panel"], found["xyzobs.px.value"])]
    expected = [(p, x, y, z + FIRST - 1) for p, x, y, z in SPOTS]
    assert len(positions) == len(expected)
    # the noise moves a centroid of some thousand counts by about 0.02
    for one, other in zip(sorted(positions), sorted(expected)):
        assert one == pytest.approx(other, abs=0.1)


def test_slice_keeps_image_numbers(folder):
    arguments = ("imported.expt", "image_range=13,14", "output.experiments_filename=part.expt")
    dials("slice_sequence", *arguments, cwd=folder)
    (part,) = ExperimentListFactory.from_json_file(str(folder / "part.expt"))
    assert part.scan.get_image_range() == (13, 14)
    for index, image in enumerate(images()[2:4]):
        for read, panel in zip(part.imageset.get_raw_data(index), image):
            np.testing.assert_array_equal(read.as_numpy_array(), panel)


def test_stock_reader_has_the_pixels(folder):
    stock = FormatNXmx(str(folder / "sweep.nxs"))
    for index, image in enumerate(images()):
        for read, panel in zip(stock.get_raw_data(index), image):
            np.testing.assert_array_equal(read.as_numpy_array(), panel)
