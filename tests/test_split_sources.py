"""Sources dealt out to groups whose images add up (`nanobragg_plugin.sources`)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from core_models import Setup, build, parameters

from nanobragg_plugin.models import Beam
from nanobragg_plugin.simulate import simulate
from nanobragg_plugin.sources import Lines, Spread, spectrum_of, split_sources, with_spread

GROUPS = [[1, 4], [0], [3, 2]]


def beam_of(wavelengths: list[float], weights: list[float]) -> Beam:
    weight = torch.tensor(weights, dtype=torch.float64)
    return Beam(
        direction=torch.tensor([[[0.0, 0.0, -1.0]] * len(weights)], dtype=torch.float64),
        wavelength=torch.tensor([wavelengths], dtype=torch.float64),
        weight=weight / weight.mean(),
        kahn_factor=None,
        polarization_axis=torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64),
        fluence=torch.tensor(1.0, dtype=torch.float64),
    )


@pytest.mark.parametrize("varying", [(), ("beam", "wavelength")])
def test_images_of_the_parts_make_the_whole(varying):
    """All with the same amplitudes: shares times images of the groups add up."""
    setup = Setup(sources=5, phi=(0.1, 0.2), varying=varying, layers=2, domains=2)
    experiment, exposure, amplitudes, options = build(setup, parameters(setup))

    def image(of: Beam) -> torch.Tensor:
        return simulate(replace(experiment, beam=of), exposure, amplitudes, options)[0]

    whole = image(experiment.beam)
    parts = split_sources(experiment.beam, GROUPS)
    assert sum(share for _, share in parts) == pytest.approx(1, abs=1e-15)
    images = [share * image(part) for part, share in parts]
    # measured worst 4e-16
    torch.testing.assert_close(sum(images), whole, rtol=1e-12, atol=0)
    assert all(float(one.max()) > 0.01 * float(whole.max()) for one in images)
    for part, _ in parts:
        assert float(part.weight.mean()) == pytest.approx(1, abs=1e-15)


def test_parts_have_their_sources():
    beam = beam_of([1.1, 1.0, 1.1], [1, 2, 3])
    (first, share), (second, rest) = split_sources(beam, [[2, 1], [0]])
    assert first.wavelength.tolist() == [[1.1, 1.0]] and share == pytest.approx(5 / 6)
    assert first.weight.tolist() == pytest.approx([1.2, 0.8]) and rest == pytest.approx(1 / 6)
    assert second.direction.shape == (1, 1, 3) and second.weight.tolist() == [1]


@pytest.mark.parametrize("groups", [[[0, 1]], [[0, 1], [1, 2]], [[0, 1, 2, 3]], []])
def test_groups_that_are_no_groups(groups):
    with pytest.raises(ValueError, match="do not hold each of 3 sources once"):
        split_sources(beam_of([1.0] * 3, [1.0] * 3), groups)


def test_the_spectrum_of_a_beam():
    wavelengths, photons = spectrum_of(beam_of([1.1, 1.0, 1.1], [1, 2, 3]))
    assert wavelengths.tolist() == [1.0, 1.1] and photons.tolist() == pytest.approx([1 / 3, 2 / 3])


def test_the_spectrum_of_the_parts_of_a_beam_is_the_beam_s():
    beam = beam_of([1.1, 1.0, 1.1, 1.3, 0.9], [1, 2, 3, 0.5, 0.1])
    parts = split_sources(beam, GROUPS)
    beams = [replace(part, fluence=share * part.fluence) for part, share in parts]
    for found, expected in zip(spectrum_of(*beams), spectrum_of(beam)):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_lines_are_relative_to_the_beam_and_differentiable_in_it():
    """A beam that varies over a scan: each point's wavelength times the factors."""
    beam = beam_of([1.0], [1.0])
    beam = replace(beam, wavelength=torch.tensor([[1.0], [1.2]], requires_grad=True))
    found = with_spread(beam, Spread(), Lines((0.5, 2.0), (1.0, 3.0)))
    assert found.wavelength.tolist() == [[0.5, 2.0], pytest.approx([0.6, 2.4])]
    assert found.weight.tolist() == [0.5, 1.5]
    found.wavelength.sum().backward()
    assert beam.wavelength.grad.tolist() == [[2.5], [2.5]]
