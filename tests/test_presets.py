# ruff: noqa: E402
"""The presets: their geometry against dxtbx's own builders and figures worked out by hand, their
spots against dials.predict, their brightness against Darwin's formula."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import numpy as np
import simulate_helpers as sim
from dxtbx.format.FormatCBFMiniPilatusDLS12M import FormatCBFMiniPilatusDLS12M
from dxtbx.format.FormatPilatusHelpers import determine_eiger_mask, determine_pilatus_mask
from dxtbx.format.FormatSMVADSC import FormatSMVADSC
from dxtbx.model import SimplePxMmStrategy
from dxtbx.model.detector import DetectorFactory
from libtbx.phil import parse
from libtbx.utils import Sorry
from preset_spots import HALF, darwin, lonely, preset, whole_photons, window

from nanobragg_plugin import phil as phil_files
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.command_line.simulate import run

#: Panels, pixels of a panel (fast, slow), pixel and sensor mm, wavelength, images.
PRESETS = {
    "adsc_q315r": (1, (3072, 3072), 0.1024, 0, 0.9795, 10),
    "eiger_16m": (1, (4150, 4371), 0.075, 0.45, 0.9763, 10),
    "eiger_1m": (1, (1030, 1065), 0.075, 0.45, 1.0, 10),
    "jungfrau_4m": (8, (1030, 514), 0.075, 0.32, 1.0, None),
    "pilatus_12m": (24, (2463, 195), 0.172, 0.45, 2.755, 10),
    "pilatus_6m": (1, (2463, 2527), 0.172, 0.45, 0.9795, 10),
}
FLAT = ("eiger_16m", "eiger_1m", "pilatus_6m")
SWEEPS = (*FLAT, "pilatus_12m", "adsc_q315r")
#: Degrees of an image of the preset of a CCD, which was read slowly; of all others 0.1.
WIDTHS = {"adsc_q315r": 0.5}


def test_list_and_unknown_name() -> None:
    assert set(phil_files.presets()) == set(PRESETS)
    with pytest.raises(Sorry, match="there is no preset 'pilatus'.*pilatus_6m"):
        adapt.with_preset(adapt.master_scope(), "pilatus")


@pytest.mark.parametrize("name", PRESETS)
def test_every_assignment_is_known(name: str) -> None:
    """What a preset says is not misspelt: libtbx would pass over it without a word."""
    _, unknown = adapt.master_scope().fetch(
        parse(phil_files.presets()[name]), track_unused_definitions=True
    )
    assert [str(item) for item in unknown] == []


@pytest.mark.parametrize("name", PRESETS)
def test_models(name: str) -> None:
    """mu against NIST's tables (XAAMDI, silicon; power law between two energies): within 2 %."""
    panels, size, pixel, thickness, wavelength, images = PRESETS[name]
    experiment = preset(name).experiment
    detector, beam, crystal = experiment.detector, experiment.beam, experiment.crystal
    assert len(detector) == panels
    for panel in detector:
        assert panel.get_image_size() == size
        assert panel.get_pixel_size() == (pixel, pixel)
        material, mu, strategy = "", 0, "Simple"
        if thickness:
            material, mu, strategy = "Si", mu_of_silicon(12.39842 / wavelength), "Parallax"
        assert (panel.get_material(), panel.get_thickness()) == (material, thickness)
        assert panel.get_mu() == pytest.approx(mu, rel=0.02)
        assert strategy in panel.get_px_mm_strategy().name()
        low, high = panel.get_trusted_range()
        assert low == -1 and 1e4 <= high <= 2**20
    assert beam.get_wavelength() == wavelength
    assert beam.get_s0() == pytest.approx((0, 0, -1 / wavelength))
    assert 0.99 <= beam.get_polarization_fraction() <= 1
    assert crystal.get_space_group().type().lookup_symbol() == "P 43 21 2"
    assert crystal.get_unit_cell().parameters() == pytest.approx((79.1, 79.1, 38.4, 90, 90, 90))
    if images is None:
        assert experiment.goniometer is None and experiment.scan is None
    else:
        assert experiment.goniometer.get_rotation_axis() == (1, 0, 0)
        assert experiment.scan.get_image_range() == (1, images)
        assert experiment.scan.get_oscillation() == (0, WIDTHS.get(name, 0.1))


def mu_of_silicon(energy: float) -> float:
    """1/mm at `energy` keV, from cm^2/g of NIST's tables and 2.33 g/cm^3."""
    table = {4: 452.9, 5: 245.0, 6: 147.0, 8: 64.68, 10: 33.89, 15: 10.34}
    return 0.233 * math.exp(
        np.interp(math.log(energy), np.log(list(table)), np.log(list(table.values())))
    )


@pytest.mark.parametrize(
    "name, distance, centre, edge, corner",
    [
        ("adsc_q315r", 250, (1536, 1536), 1.7673, 1.3772),
        ("eiger_16m", 200, (2075, 2185.5), 1.4503, 1.1886),
        ("eiger_1m", 100, (515, 532.5), 2.6477, 1.9932),
        ("pilatus_6m", 300, (1231.5, 1263.5), 1.5883, 1.2710),
    ],
)
def test_flat_detectors(name: str, distance: float, centre: tuple, edge: float, corner: float):
    """dxtbx's DetectorFactory.simple; Bragg's law worked out by hand for the middle of the upper
    edge and a corner, Angstrom."""
    for given, expected in ((None, distance), (distance + 50, distance + 50)):
        change = () if given is None else (f"geometry.detector.distance={given}",)
        experiment = preset(name, *change).experiment
        panel, s0 = experiment.detector[0], experiment.beam.get_s0()
        pixel = panel.get_pixel_size()
        simple = DetectorFactory.simple(
            "PAD",
            expected,
            (centre[0] * pixel[0], centre[1] * pixel[1]),
            "+x",
            "-y",
            pixel,
            panel.get_image_size(),
            panel.get_trusted_range(),
        )[0]
        for vector in ("origin", "fast_axis", "slow_axis"):
            ours, theirs = (getattr(p, f"get_{vector}")() for p in (panel, simple))
            assert ours == pytest.approx(theirs, abs=1e-9)
        assert panel.get_distance() == pytest.approx(expected, abs=1e-9)
        assert panel.get_beam_centre_px(s0) == pytest.approx(centre, abs=1e-6)
    panel = preset(name).experiment.detector[0]
    panel.set_px_mm_strategy(SimplePxMmStrategy())
    assert panel.get_resolution_at_pixel(s0, (centre[0], 0)) == pytest.approx(edge, abs=1e-4)
    assert panel.get_resolution_at_pixel(s0, (0, 0)) == pytest.approx(corner, abs=1e-4)


def test_pilatus_12m_is_dxtbx_s() -> None:
    """Every row where dxtbx's format class of this detector has it, all corners within 1e-6 mm."""
    form = FormatCBFMiniPilatusDLS12M.__new__(FormatCBFMiniPilatusDLS12M)
    form._multi_panel = False
    form._cif_header_dictionary = {
        "Beam_xy": "(1075.00, 2594.00) pixels",
        "Detector_distance": "0.00000 m",
        "Wavelength": "2.755 A",
        "Silicon": "sensor, thickness 0.000450 m",
        "timestamp": "2023-01-01T00:00:00.000",
    }
    theirs = form._detector()
    ours = preset("pilatus_12m").experiment.detector
    assert [p.get_name() for p in ours] == [p.get_name() for p in theirs]
    for a, b in zip(ours, theirs):
        width, height = b.get_image_size_mm()
        for corner in ((0, 0), (width, 0), (0, height), (width, height)):
            assert a.get_lab_coord(corner) == pytest.approx(b.get_lab_coord(corner), abs=1e-6)
        assert a.get_mu() == pytest.approx(b.get_mu())
        assert a.get_trusted_range() == b.get_trusted_range()
        assert a.get_distance() == pytest.approx(250, abs=1e-6)
    # the beam is in row 12 = 2594 // 212, at 2594 - 12 x 212 = 50 of its rows
    panel, _ = ours.get_ray_intersection((0, 0, -1))
    assert panel == 12
    s0 = preset("pilatus_12m").experiment.beam.get_s0()
    assert ours[12].get_beam_centre_px(s0) == pytest.approx((1075, 50), abs=1)


def test_the_ccd_is_dxtbx_s() -> None:
    """Gain and size of FormatSMVADSC's Q315r, binned in hardware."""
    panel = preset("adsc_q315r").experiment.detector[0]
    form = FormatSMVADSC.__new__(FormatSMVADSC)
    form._header_dictionary = {"BIN": "2x2", "BIN_TYPE": "HW"}
    assert panel.get_gain() == form._adsc_module_gain("Q315r")
    del form._header_dictionary["BIN_TYPE"]
    names = "SIZE1", "SIZE2", "PIXEL_SIZE"
    values = *panel.get_image_size(), panel.get_pixel_size()[0]
    form._header_dictionary.update((name, str(value)) for name, value in zip(names, values))
    assert form._adsc_module_gain() != 1.0  # that of a detector it does not know
    assert panel.get_pedestal() == 40
    assert panel.is_value_in_trusted_range(65534) and not panel.is_value_in_trusted_range(65535)


def test_the_ccd_s_noise(tmp_cwd) -> None:
    """Away from spots: offset + gain x 3 photons; a variance of gain^2 x photons x the sum of the
    squared point spread, by the middles of 20 x 20 parts of 9 x 9 pixels, + read-out noise^2 + 1/12
    of rounding. Measured 0.9990 and 1.008 of these, of 14641 pixels: some photons of the spread's
    tails would come from beyond the window."""
    off = "crystal.spot_scale=1e-9", "structure_factors.default_F=1"
    window = "sampling.image_range=1,1", "sampling.roi=2000,2140,2000,2140"
    run(["preset=adsc_q315r", *off, *window])
    values = sim.pixels()[0, 2010:2131, 2010:2131]
    g, part = 0.027, (np.arange(-90, 90) + 0.5) * 0.1024 / 20
    density = g / (2 * math.pi) * (g**2 + part[:, None] ** 2 + part**2) ** -1.5
    shares = density.reshape(9, 20, 9, 20).sum((1, 3)) * (0.1024 / 20) ** 2
    variance = 1.8**2 * 3 * (shares**2).sum() + 9 + 1 / 12
    assert values.mean() == pytest.approx(40 + 1.8 * 3, rel=2e-3)
    assert values.var() == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("name", FLAT)
def test_gaps_are_dxtbx_s(name: str) -> None:
    """The rectangles that dxtbx's format classes mask, first and last pixels counted from 1."""
    detector = preset(name).experiment.detector
    theirs = determine_pilatus_mask if "pilatus" in name else determine_eiger_mask
    good = np.ones(tuple(reversed(detector[0].get_image_size())), bool)
    for first_fast, last_fast, first_slow, last_slow in theirs(detector):
        good[first_slow - 1 : last_slow, first_fast - 1 : last_fast] = False
    ours = detector[0].get_untrusted_rectangle_mask().as_numpy_array()
    assert np.array_equal(ours, good) and 0.01 < 1 - good.mean() < 0.12


def test_gaps_of_the_barrel() -> None:
    """5 modules of 487 pixels and 4 gaps of 7 in each of 24 rows."""
    for panel in preset("pilatus_12m").experiment.detector:
        good = panel.get_untrusted_rectangle_mask().as_numpy_array()
        edges = np.flatnonzero(np.diff(good[0].astype(int))) + 1
        assert good.sum() == 5 * 487 * 195 and edges.tolist() == [
            487, 494, 981, 988, 1475, 1482, 1969, 1976
        ]  # fmt: skip


@pytest.mark.parametrize("distance", [None, 150])
def test_jungfrau_4m(distance: float | None) -> None:
    """The corners of 8 modules on one grid of 2068 x 2164 pixels around the beam, by hand."""
    change = () if distance is None else (f"geometry.detector.hierarchy.origin=0,0,-{distance}",)
    experiment = preset("jungfrau_4m", *change).experiment
    for number, panel in enumerate(experiment.detector):
        row, column = divmod(number, 2)
        first = np.array((column * (1030 + 8), row * (514 + 36)))
        for corner in ((0, 0), (1030, 0), (0, 514), (1030, 514)):
            x, y = (first + corner - (2068 / 2, 2164 / 2)) * 0.075
            at = panel.get_lab_coord((corner[0] * 0.075, corner[1] * 0.075))
            assert at == pytest.approx((x, -y, -(distance or 100)), abs=1e-9)
    with pytest.raises(RuntimeError):  # the beam goes through the gaps' crossing
        experiment.detector.get_ray_intersection(experiment.beam.get_s0())


@pytest.mark.parametrize("name", ["jungfrau_4m", "pilatus_12m"])
def test_panels_do_not_hide_each_other(name: str) -> None:
    """No ray from the crystal to a panel, its edges included, meets another panel."""
    detector = preset(name).experiment.detector
    for number, panel in enumerate(detector):
        width, height = panel.get_image_size_mm()
        for u, v in np.ndindex(5, 5):
            ray = panel.get_lab_coord((width * u / 4, height * v / 4))
            for other_number, other in enumerate(detector):
                if (
                    other_number != number
                    and np.dot(other.get_normal(), ray)
                    * np.dot(other.get_normal(), other.get_origin())
                    > 0
                ):
                    met = other.get_bidirectional_ray_intersection(ray)
                    assert not other.is_coord_valid_mm(met), (number, other_number)


@pytest.mark.parametrize("name", PRESETS)
def test_a_spot_lies_where_dials_predicts_it(name: str) -> None:
    """One image of the preset as it is: its brightest pixel near a lonely spot is that of the
    prediction by dials.predict, parallax included. Worst: half a pixel."""
    spot = lonely(preset(name).experiment, d_min=2.2, d_max=6.0, image=5.5)
    change = "sampling.image_range=6,6" if name in SWEEPS else ""
    given, images = whole_photons(name, spot, change)
    assert len(images) == 1 and len(images[0]) == len(given.experiment.detector)
    first = window(spot)
    image = images[0][spot.panel][first[1] :, first[0] :][: 2 * HALF + 1, : 2 * HALF + 1]
    slow, fast = np.unravel_index(image.argmax(), image.shape)
    off = np.array((first[0] + fast + 0.5, first[1] + slow + 0.5)) - spot.xyz[:2]
    print(f"\n{name}: {image.max():.3g} photons, {off} pixels off")
    assert np.abs(off).max() < 1.0
    assert 1 < image.max() < given.experiment.detector[spot.panel].get_trusted_range()[1]
    # all that was simulated is the window
    assert sum(float(panel.sum()) for panel in images[0]) == pytest.approx(float(image.sum()))


@pytest.mark.parametrize("name", SWEEPS)
def test_brightness_is_sensible(name: str) -> None:
    """By Darwin's formula, with the preset's flux, beam, crystal and sensor: 100 to 1000 photons at
    F = 100. Lysozyme's F are 100 to 2000 electrons: spots of 1e2 to 1e5 photons."""
    given = preset(name)
    spot = lonely(given.experiment, d_min=2.2, d_max=3.5, image=5.5)
    assert 1e2 < darwin(given, spot) < 1e3


@pytest.mark.parametrize("name", ["eiger_1m", "pilatus_12m"])
def test_brightness_is_darwin_s(name: str) -> None:
    """The photons of a whole reflection, simulated, against Darwin's formula. Worst, of all four
    sweeps: 0.2 %."""
    sweep = "geometry.scan.image_range=1,40"
    spot = lonely(preset(name, sweep).experiment, d_min=2.2, d_max=3.5, image=20)
    first, last = int(spot.xyz[2]) - 7, int(spot.xyz[2]) + 9
    given, images = whole_photons(name, spot, sweep, f"sampling.image_range={first},{last}")
    total = sum(float(panel.sum()) for image in images for panel in image)
    print(f"\n{name}: {total:.1f} photons, {total / darwin(given, spot):.4f} of Darwin's")
    assert total == pytest.approx(darwin(given, spot), rel=5e-3)


def test_the_distance_of_several_panels_is_refused(tmp_cwd):
    """dxtbx moves single panels only; its own message is empty."""
    with pytest.raises(Sorry, match="a detector of one panel, this one has 8"):
        run(["preset=jungfrau_4m", "geometry.detector.distance=200"])
