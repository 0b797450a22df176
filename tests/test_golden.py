"""nanoBragg.c's reference images, flag by flag, through nanobragg.classic.

Expected values: `data/golden` and `data/golden_more` (nanoBragg.c 455534a, one thread; for `spec`
the same with its own three unmerged fixes; see their README).
"""

from __future__ import annotations

import golden
import numpy as np
import pytest

pytest.importorskip("dxtbx")

CASES = golden.cases()
RUNS = [(case.name, mode) for case in CASES.values() for mode in case.modes]
#: Of the image's maximum; measured worst cases 3e-16 (both are float32) and 6.2e-7.
TOLERANCE = {"double": 1e-7, "mixed": 1e-6}
#: Relative, of pixels above 1e-3 of the maximum; measured worst cases 0 and 5.9e-6.
RELATIVE = {"double": 1e-6, "mixed": 1e-5}


def compare(simulated: np.ndarray, expected: np.ndarray, precision: str) -> None:
    assert simulated.shape == expected.shape
    simulated, expected = simulated.astype(float), expected.astype(float)
    peak = expected.max()
    difference = np.abs(simulated - expected)
    assert difference.max() <= TOLERANCE[precision] * peak
    strong = expected > 1e-3 * peak
    assert (difference[strong] / expected[strong]).max() <= RELATIVE[precision]
    assert np.corrcoef(simulated.ravel(), expected.ravel())[0, 1] >= 0.999999


@pytest.mark.parametrize("name, mode", RUNS)
def test_image_of_nanobragg_c(name, mode, tmp_cwd):
    """Photons; the header's text and counts of the integer image."""
    case = CASES[name]
    image = golden.classic(case, mode, "-nonoise")
    images = case.images()
    fresh = mode == "spec" and "spec_image" in images
    compare(image, case.expected(mode), "double")
    text, counts = golden.smv(golden.INT, case.shape)
    assert text.rstrip("\f") == case.header
    if not fresh:  # the stored counts are those of the carryover
        assert np.abs(counts.astype(int) - images["int_image"].astype(int)).max() <= 1


@pytest.mark.parametrize("name, mode", RUNS[::2])
def test_image_of_nanobragg_c_in_mixed_precision(name, mode, tmp_cwd):
    case = CASES[name]
    image = golden.classic(case, mode, "-precision", "mixed", "-nonoise", "-nopgm")
    compare(image, case.expected(mode), "mixed")


#: Where the modes differ: not those of nanoBragg.c's running sum, which no mode reproduces.
CARRYOVER = [c.name for c in CASES.values() if c.spec_differs > 1e-3 and "c-parity" in c.modes]


@pytest.mark.parametrize("name", CARRYOVER)
def test_the_carryover_shows(name, tmp_cwd):
    """The two modes differ as much as nanoBragg.c and its fix do (`spec_differs`)."""
    case = CASES[name]
    spec, parity = (golden.classic(case, mode, "-nonoise") for mode in ("spec", "c-parity"))
    difference = np.abs(spec - parity).max() / parity.max()
    assert difference == pytest.approx(case.spec_differs, rel=1e-5)


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
        *"compute.precision=double compute.tolerance=0 noise.poisson=False".split(),
        "sampling.roi=0,255,0,0",
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
