"""Groups of a detector's hierarchy: what they are, what is refined of them, what is written."""

from __future__ import annotations

import json
from pathlib import Path

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx

import numpy as np
import pytest

pytest.importorskip("dials")

from dials.array_family import flex  # noqa: E402
from dxtbx.model import Beam, Detector, ExperimentList  # noqa: E402
from libtbx.utils import Sorry  # noqa: E402
from simulate_helpers import crystal, load, run_command, simulate, still  # noqa: E402

from nanobragg_plugin.adapters import detector_levels, models  # noqa: E402
from nanobragg_plugin.command_line import refine as command  # noqa: E402

NAMES = ("left", "right")
SIMULATED = (
    *("structure_factors.default_F=100", "crystal.Ncells_abc=12,10,8", "beam.fluence=3e27"),
    *("crystal.mosaic.spread_deg=0.4", "crystal.mosaic.domains=40", "crystal.mosaic.seed=3"),
    *("sampling.oversample=2", "sampling.thicksteps=1"),
)
#: How the second group was put: mm along fast, slow and normal, then degrees about the normal.
MOVED = (0.11, -0.07, 0.0), 0.25


def detector() -> Detector:
    """Four panels of 60 x 50 pixels of 0.3 mm in two groups, which stand side by side."""
    result = Detector()
    root = result.hierarchy()
    root.set_frame((1, 0, 0), (0, -1, 0), (-19.0, 16.0, -60.0))
    for number, name in enumerate(NAMES):
        group = root.add_group()
        group.set_name(name)
        group.set_local_frame((1, 0, 0), (0, 1, 0), (20.0 * number, 0, 0))
        for place in range(2):
            panel = group.add_panel()
            panel.set_name(f"{name} {place}")
            panel.set_local_frame((1, 0, 0), (0, 1, 0), (0, 16.5 * place, 0))
            panel.set_image_size((60, 50))
            panel.set_pixel_size((0.3, 0.3))
            panel.set_trusted_range((-1, 1e6))
    return result


def put(group, shift: tuple, turn_deg: float) -> None:
    """Move a group: mm along its own axes, degrees about its normal."""
    cosine, sine = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    fast, slow, origin = (
        np.array(getattr(group, f"get_{name}")()) for name in ("fast_axis", "slow_axis", "origin")
    )
    origin = origin + shift[0] * fast + shift[1] * slow
    turned = cosine * fast + sine * slow, cosine * slow - sine * fast
    group.set_frame(*map(tuple, turned), tuple(origin))


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, [("", (0, 1, 2, 3))]),
        (1, [("left", (0, 1)), ("right", (2, 3))]),
        (
            2,
            [
                (f"{name} {place}", (2 * n + place,))
                for n, name in enumerate(NAMES)
                for place in (0, 1)
            ],
        ),
    ],
)
def test_groups_are_the_hierarchys(level: int, expected: list) -> None:
    assert detector_levels.groups(detector(), level) == expected


def test_a_level_too_deep_is_refused() -> None:
    with pytest.raises(Sorry, match="levels 0 to 2"):
        detector_levels.groups(detector(), 3)


def frames(nodes) -> np.ndarray:
    return np.array([(n.get_fast_axis(), n.get_slow_axis(), n.get_origin()) for n in nodes])


def test_a_group_goes_where_its_panels_go() -> None:
    """As where dxtbx moves the group; a panel that moves on its own leaves its group behind."""
    moved, single = detector(), detector()
    put(moved.hierarchy()[1], *MOVED)
    put(single[3], *MOVED)
    for wanted in (moved, single):
        made = detector()
        detector_levels.write(made, models.panels(wanted))
        assert np.allclose(frames(made), frames(wanted), atol=1e-12)
        groups = (frames(one.hierarchy().children()) for one in (made, wanted))
        assert np.allclose(*groups, atol=1e-12)


@pytest.fixture
def data(tmp_cwd) -> Path:
    """data.* of a detector whose second group was put elsewhere; start.* know nothing of it."""
    true = detector()
    put(true.hierarchy()[1], *MOVED)
    of = {"beam": Beam((0, 0, 1), 1.0), "crystal": crystal()}
    ExperimentList([still(detector=true, **of)]).as_file("true.expt")
    output = "output.truth=True", "output.prefix=data", "background.level=2"
    simulate("true.expt", *SIMULATED, *output)
    (experiment,) = load("data.expt")
    experiment.detector = detector()
    ExperimentList([experiment]).as_file("start.expt")
    table = flex.reflection_table.from_file("data.truth.refl")
    table.select(table["intensity.sum.value"] > 100).as_file("start.refl")
    return tmp_cwd


def test_a_group_is_found_where_it_was_put(data) -> None:
    """The other group does not move, so that the detector as a whole is known."""
    run_command(
        command.run,
        *("start.expt", "start.refl", *SIMULATED[:2], "crystal.mosaic.spread_deg=0.4"),
        *("crystal.mosaic.domains=40", "crystal.mosaic.seed=3", "sampling.oversample=2"),
        *("refine.parameters=orientation+scale+detector_shift+detector_tilt",),
        *("refine.detector_level=1", "refine.detector_panels=2,3", "output.pictures=False"),
        "refine.coarse=False",
        "refine.restraint=detector_*_tilt_[fs]*,0.01",
    )
    (true,), (found,) = load("true.expt"), load("refined.expt")
    content = json.loads(Path("refined.json").read_text())
    sigma = {row["name"]: row["sigma"] for row in content["parameters"] if row["refined"]}
    shifts = {"detector_1_fast", "detector_1_slow"}
    tilts = {f"detector_1_tilt_{way}" for way in ("fast", "slow", "normal")}
    assert {name for name in sigma if name.startswith("detector")} == shifts | tilts
    assert sigma["detector_1_tilt_fast"] <= 0.01
    groups = [frames(one.detector.hierarchy().children()) for one in (true, found)]
    assert np.allclose(groups[1][0], groups[0][0], atol=1e-12)
    # it was 0.13 mm and 0.25 degrees off; sigma of the tilt 0.006 degrees
    # (measured: 1.6e-4, 0.003 mm)
    assert np.allclose(groups[1][1][:2], groups[0][1][:2], atol=5e-4)
    assert np.allclose(groups[1][1][2], groups[0][1][2], atol=0.008)
    assert content["chi_sqr_per_degree_of_freedom"] == pytest.approx(1.0, abs=0.05)
    log = Path("nanobragg.refine.log").read_text()
    assert "Groups of panels: detector_0 left, detector_1 right" in log


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("refine.detector_level=3",), "levels 0 to 2"),
        (("refine.detector_panels=4", "refine.detector_level=1"), "there are 4 panels"),
    ],
)
def test_what_there_is_not_is_refused(data, args: tuple[str, ...], message: str) -> None:
    files = "start.expt", "start.refl", *SIMULATED[:2], "refine.parameters=scale+distance"
    with pytest.raises(Sorry, match=message):
        run_command(command.run, *files, *args)
