"""nanoBragg.c's reference images, from dxtbx models with the options of the C program.

Expected values: `data/golden` (nanoBragg.c 455534a, one thread; see its README).
"""

from __future__ import annotations

import golden
import numpy as np
import pytest
import torch

params_module = pytest.importorskip("nanobragg_plugin.adapters.params")

from libtbx.phil import parse  # noqa: E402

from nanobragg_plugin.simulate import simulate  # noqa: E402

CASES = {case.name: case for case in golden.cases()}
RUNS = [(case.name, mode) for case in CASES.values() for mode in case.modes]
#: Of the image's maximum; measured worst case 6e-8, which is the rounding of C's float32 images.
TOLERANCE = {"double": 1e-7, "mixed": 1e-5}
#: Relative, of pixels above 1e-3 of the maximum; measured worst cases 6e-8 and 8.2e-5.
RELATIVE = {"double": 1e-7, "mixed": 1e-4}


def image(case: golden.Case, mode: str, precision: str = "double") -> np.ndarray:
    scope = params_module.master_scope()
    assignments = [
        *golden.phil(case),
        f"sampling.phi_carryover_mode={mode}",
        f"compute.precision={precision}",
    ]
    params = scope.fetch(parse("\n".join(assignments))).extract()
    plan = params_module.plan(params, golden.experiment(case), golden.mask(case))
    with torch.no_grad():
        model = plan.experiment_of_image(0)
        return simulate(model, plan.exposure(0), plan.structure_factors, plan.options)[0].numpy()


def compare(simulated: np.ndarray, expected: np.ndarray, precision: str) -> None:
    assert simulated.shape == expected.shape
    peak = expected.max()
    difference = np.abs(simulated - expected)
    assert difference.max() <= TOLERANCE[precision] * peak
    strong = expected > 1e-3 * peak
    assert (difference[strong] / expected[strong]).max() <= RELATIVE[precision]


@pytest.mark.parametrize("name, mode", RUNS)
def test_image_of_nanobragg_c(name, mode):
    case = golden.load_images(CASES[name])
    compare(image(case, mode), case.expected(mode), "double")


@pytest.mark.parametrize("name, mode", RUNS[::3])
def test_image_of_nanobragg_c_in_mixed_precision(name, mode):
    case = golden.load_images(CASES[name])
    compare(image(case, mode, "mixed"), case.expected(mode), "mixed")


def test_every_case_is_here_but_those_that_wait():
    listed = {entry["name"] for entry in golden.listed()}
    assert set(CASES) == listed - golden.LATER
    assert golden.LATER <= listed


@pytest.mark.parametrize("name", [c.name for c in CASES.values() if "phi_from_zero" in c.name])
def test_the_carryover_shows(name):
    """The two modes differ as much as nanoBragg.c and its fix do (`spec_differs`)."""
    case = golden.load_images(CASES[name])
    expected = next(e["spec_differs"] for e in golden.listed() if e["name"] == name)
    spec, parity = image(case, "spec"), image(case, "c-parity")
    assert np.abs(spec - parity).max() / parity.max() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mode", ["c-parity", "spec"])
def test_the_seed_pixel_s_frame_through_the_command(mode, shared, tmp_cwd):
    """Two windows and the first pixels of a Pilatus 6M frame (shared/golden/seed_pixel)."""
    import h5py

    from nanobragg_plugin.command_line import simulate as command

    folder = shared / "golden" / "seed_pixel"
    images = np.load(folder / "orthogonal_windows.npz")
    corners = [tuple(map(int, corner)) for corner in images["corners"]]
    key = "c_parity" if mode == "c-parity" else "spec"
    arguments = [
        *(folder / name for name in ("orthogonal.expt", "scaled.hkl")),
        *"crystal.Ncells_abc=36,47,29 crystal.xtal_shape=square beam.fluence=1e24".split(),
        *"sampling.phisteps=10 sampling.phi_sampling=start sampling.oversample=1".split(),
        *"sampling.oversample_omega=False sampling.oversample_polar=False".split(),
        *"compute.precision=double noise.poisson=False sampling.roi=0,255,0,0".split(),
        *(f"sampling.roi={f},{f + 127},{s},{s + 127}" for s, f in corners),
        f"sampling.phi_carryover_mode={mode}",
    ]
    command.run([str(argument) for argument in arguments])
    with h5py.File("simulated.nxs") as handle:
        frame = handle["/entry/data/data"][0]
    peak = images[key].max()
    for (slow, fast), window in zip(corners, images[key]):
        # the file holds float32, as the reference does: measured worst case 0
        assert np.abs(frame[slow : slow + 128, fast : fast + 128] - window).max() <= 1e-7 * peak
    assert np.abs(frame[0, :256] - images[f"{key}_first_row"]).max() <= 1e-7 * peak
