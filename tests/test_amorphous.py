"""Scatter of water, air and others in the beam: the formula by hand, a path by quadrature, the
command."""

from __future__ import annotations

import math
from dataclasses import replace

import core_models
import numpy as np
import pytest
import torch

from nanobragg_plugin import background
from nanobragg_plugin.background import Material
from nanobragg_plugin.models import Exposure, Panel
from nanobragg_plugin.simulate import Simulator

#: Classical radius of the electron, m (CODATA); molecules a mole.
R_E, AVOGADRO = 2.8179403262e-15, 6.02214076e23


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def water(**changes: torch.Tensor) -> Material:
    per_area = tensor(background.molecules(0.1, 1.0, 18.0))[0]
    usual = Material(tensor(0, 0.1, 0.3), tensor(2, 8, 4), per_area, tensor(0.0), tensor(1.0))
    return replace(usual, **changes)


def straight(**changes: torch.Tensor) -> Material:
    return water(stol=tensor(*STRAIGHT[0]), f=tensor(*STRAIGHT[1]), **changes)


def model(**setup: object):
    setup = core_models.Setup(image_size=(9, 7), **setup)
    return core_models.build(setup, core_models.parameters(setup))


def scattered(made, material: Material) -> list[torch.Tensor]:
    experiment, exposure, amplitudes, options = made
    return Simulator(experiment, amplitudes, options).scattered(exposure, (material,))


#: sin(theta)/lambda and F: with a kink, and without one within a pixel, so that its middle will do.
KINK, STRAIGHT = ((0, 0.1, 0.3), (2, 8, 4)), ((0, 0.5), (2, 8))


def by_hand(
    panel: Panel, made, slow: float, fast: float, along: float = 0.0, table: tuple = KINK
) -> float:
    """A pixel of one source, without a sensor, at its middle, in numpy; seen from `along` mm
    further on."""
    beam = made[0].beam
    s0 = beam.direction[0, 0].numpy() / np.linalg.norm(beam.direction[0, 0].numpy())
    size = panel.pixel_size.numpy()
    f, s, o = (getattr(panel, name).numpy() for name in ("fast", "slow", "origin"))
    place = o + (fast + 0.5) * size[0] * f + (slow + 0.5) * size[1] * s - along * s0
    distance = np.linalg.norm(place)
    s1 = place / distance
    omega = size[0] * size[1] * abs(place @ np.cross(f, s)) / distance**3
    two_theta = math.acos(s1 @ s0)
    stol = math.sin(two_theta / 2) / float(beam.wavelength[0, 0])
    amplitude = np.interp(stol, *table)
    polar = (1 + math.cos(two_theta) ** 2) / 2
    molecules = 0.1e-3 * 1e6 * AVOGADRO / 18
    return R_E**2 * amplitude**2 * molecules * omega * polar


def unpolarized(made):
    """With a beam of equal shares, whose factor by hand is (1 + cos^2)/2."""
    experiment = made[0]
    beam = replace(experiment.beam, kahn_factor=tensor(0.0)[0])
    return (replace(experiment, beam=beam), *made[1:])


def test_by_hand():
    """r_e^2 F^2 n omega polar. Measured worst 2.4e-7, which is nanoBragg.c's Avogadro number."""
    made = unpolarized(model(panels=2))
    for panel, image in zip(made[0].panels, scattered(made, straight())):
        for slow, fast in ((0, 0), (3, 4), (6, 8)):
            expected = by_hand(panel, made, slow, fast, table=STRAIGHT)
            assert float(image[slow, fast]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("slow, fast", ((0, 0), (6, 8)))
def test_along_the_beam(slow, fast):
    """A path of 30 mm, as long as the detector is far, by quadrature: eight places do. Measured
    worst 7.8e-7."""
    integrate = pytest.importorskip("scipy.integrate")
    nodes, weights = np.polynomial.legendre.leggauss(8)
    made = unpolarized(model())
    material = straight(along_mm=tensor(*(15 * nodes - 4)), share=tensor(*(weights / 2)))
    (image,), panel = scattered(made, material), made[0].panels[0]
    expected, _ = integrate.quad(
        lambda z: by_hand(panel, made, slow, fast, z, STRAIGHT) / 30, -19, 11, epsrel=1e-9
    )
    assert float(image[slow, fast]) == pytest.approx(expected, rel=3e-6)
    assert abs(float(image[slow, fast]) / by_hand(panel, made, slow, fast, 0, STRAIGHT) - 1) > 1e-2


def test_what_an_image_has():
    """Sensor, mask and polarization act; twice the thickness gives twice as much."""
    plain = model()
    (image,) = scattered(plain, water())
    (double,) = scattered(plain, water(per_area=2 * water().per_area))
    assert torch.allclose(double, 2 * image, rtol=1e-14)
    (sensor,) = scattered(model(layers=3), water())
    assert (sensor < image).all() and (sensor > 0.1 * image).all()
    (masked,) = scattered(model(masked=True), water())
    good = model(masked=True)[0].panels[0].mask
    assert (masked[~good] == 0).all() and torch.allclose(masked[good], image[good], rtol=1e-14)
    (polarized,) = scattered(unpolarized(plain), water())
    assert not torch.allclose(polarized, image, rtol=1e-3)


def test_sources_are_averaged_by_weight():
    made = model(sources=2)
    beam = made[0].beam
    (image,) = scattered(made, water())
    alone = []
    for number in (0, 1):
        one = replace(
            beam,
            direction=beam.direction[:, number : number + 1],
            wavelength=beam.wavelength[:, number : number + 1],
            weight=beam.weight[number : number + 1],
        )
        alone += scattered((replace(made[0], beam=one), *made[1:]), water())
    share = beam.weight / beam.weight.sum()
    assert torch.allclose(image, share[0] * alone[0] + share[1] * alone[1], rtol=1e-12)


def test_amplitudes_between_and_beyond():
    found = water().f_squared.at(tensor(0, 0.05, 0.1, 0.2, 0.3, 7))
    assert torch.allclose(found.sqrt(), tensor(2, 5, 8, 6, 4, 4), rtol=1e-14)


def test_made_once_where_the_beam_stays(monkeypatch):
    """For a whole sweep; of a beam that changes for each image."""
    from nanobragg_plugin.kernels import amorphous

    calls, original = [], amorphous.scattered
    monkeypatch.setattr(amorphous, "scattered", lambda *of: calls.append(1) or original(*of))
    materials = (water(),)
    for varying, expected in (((), 1), (("beam",), 2)):
        calls.clear()
        experiment, exposure, amplitudes, options = model(varying=varying, phi=(0.1, 0.2))
        simulator = Simulator(experiment, amplitudes, options, images=2)
        for position in (exposure.position, tuple(p / 2 for p in exposure.position)):
            simulator.scattered(Exposure(exposure.phi, position), materials)
        assert len(calls) == expected


# ---- rings that are narrower than pixels

#: mm: distance and pixels of a flat detector; Angstrom; 1/Angstrom: where the ring is.
DISTANCE, PIXEL, WAVELENGTH, Q = 100.0, 0.5, 1.0, 0.27


def ring(fwhm: float) -> Material:
    """F^2 a Gaussian in q of that full width, 1/Angstrom, and of integral 1, 30 points in it."""
    sigma = fwhm / math.sqrt(8 * math.log(2))
    q = Q + sigma * np.linspace(-8, 8, 241)
    density = np.exp(-(((q - Q) / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
    return water(stol=tensor(*(q / 2)), f=tensor(*np.sqrt(density)))


def facing(shape: tuple[int, int], first: tuple[float, float]):
    """The usual models with a panel of `shape` that faces the beam, whose first pixel (slow, fast)
    is `first` pixels from it, and a beam of that wavelength."""
    experiment, exposure, amplitudes, options = unpolarized(model())
    s0 = experiment.beam.direction[0, 0]
    s0 = s0 / torch.linalg.vector_norm(s0)
    fast = torch.linalg.cross(s0, tensor(0.3, 0.5, 0.8))
    fast = fast / torch.linalg.vector_norm(fast)
    slow = torch.linalg.cross(s0, fast)
    origin = DISTANCE * s0 + PIXEL * (first[0] * slow + first[1] * fast)
    panel = replace(
        experiment.panels[0],
        origin=origin,
        fast=fast,
        slow=slow,
        pixel_size=tensor(PIXEL, PIXEL),
        image_size=(shape[1], shape[0]),
    )
    beam = replace(experiment.beam, wavelength=tensor(WAVELENGTH)[None])
    return replace(experiment, panels=(panel,), beam=beam), exposure, amplitudes, options


@pytest.mark.parametrize("fwhm", (1e-5, 1e-3, 1e-2))
def test_a_ring_has_all_its_photons(fwhm):
    """r_e^2 n times the integral of F^2 polar over all directions, 2 pi lambda^2 q dq, of rings
    from a 400th of a pixel to two pixels wide (0.005 1/Angstrom). Measured worst 2.9e-4; at the
    pixels' middles the narrowest has 4.4 times as many."""
    made = facing((170, 160), (-85.3, -80.1))
    (image,) = scattered(made, ring(fwhm))
    cosine = 1 - (Q * WAVELENGTH) ** 2 / 2
    expected = 2 * math.pi * WAVELENGTH**2 * Q * (1 + cosine**2) / 2
    expected *= R_E**2 * float(water().per_area)
    assert float(image.sum()) == pytest.approx(expected, rel=6e-4)


@pytest.mark.parametrize("fwhm", (2e-4, 2e-3))
def test_a_pixel_of_a_ring(fwhm):
    """The formula at 400 x 400 places of each of 63 pixels, which the ring crosses obliquely.
    Measured worst 4.0e-3 of the brightest."""
    made = facing((7, 9), (15.3, 46.2))
    (image,) = scattered(made, ring(fwhm))
    f = ring(fwhm)
    places = (np.arange(400) + 0.5) / 400
    brute = np.zeros((7, 9))
    for slow, fast in np.ndindex(7, 9):
        y, x = np.meshgrid(slow + places + 15.3, fast + places + 46.2, indexing="ij")
        angle = np.arctan(np.hypot(x, y) * PIXEL / DISTANCE)
        stol = np.sin(angle / 2) / WAVELENGTH
        omega = PIXEL**2 / DISTANCE**2 * np.cos(angle) ** 3
        found = np.interp(stol, f.stol.numpy(), f.f.numpy()) ** 2
        brute[slow, fast] = (found * omega * (1 + np.cos(angle) ** 2) / 2).mean()
    brute *= R_E**2 * float(f.per_area)
    assert (brute > 0.1 * brute.max()).sum() >= 10
    assert np.abs(image.numpy() - brute).max() < 8e-3 * brute.max()
