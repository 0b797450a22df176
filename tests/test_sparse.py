"""Pixels that the sparse selection drops have less than the tolerance; the others are dense's."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from nanobragg_plugin import models, mosaic, sampling, structure_factors
from nanobragg_plugin.cell import b_matrix
from nanobragg_plugin.rotation import from_vector, phi_steps
from nanobragg_plugin.simulate import simulate


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def random_model(seed: int, shape: str = "gauss"):
    """A tilted panel with a sensor, several sources, a triclinic crystal that may change."""
    random = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.rand(*size, dtype=torch.float64, generator=random)

    turn = from_vector((draw(3) - 0.5) * 0.8)
    pixel_size = 0.1 + 0.2 * draw(2)
    size = (70, 54)
    offset = pixel_size * tensor(size) * draw(2)
    origin = turn @ torch.stack([-offset[0], offset[1], -40 - 60 * draw(1)[0]])
    panel = models.Panel(
        origin, turn[:, 0], -turn[:, 1], pixel_size, size, draw(1)[0], 1 + 4 * draw(1)[0]
    )
    sources = int(1 + 3 * draw(1))
    direction = tensor([0.0, 0, -1]) + 0.004 * (draw(1, sources, 3) - 0.5)
    beam = models.Beam(
        direction / direction.norm(dim=-1, keepdim=True),
        1 + 0.02 * draw(1, sources),
        0.5 + draw(sources),
        tensor(0.9),
        tensor([1.0, 0, 0]),
        tensor(1e22),
    )
    eye = torch.eye(3, dtype=torch.float64)
    goniometer = models.Goniometer(from_vector(draw(3)) @ tensor([1.0, 0, 0]), eye, eye[None])
    cell = torch.cat([30 + 50 * draw(3), 75 + 30 * draw(3)])
    a_matrix = from_vector(draw(3) * 2) @ b_matrix(cell)
    points = int(2 * draw(1)) + 1
    drift = [from_vector(0.003 * i * (draw(3) - 0.5)) for i in range(points)]
    umats = mosaic.mosaic_umats(0.004 * draw(1)[0], int(1 + 6 * draw(1)), "gaussian", seed)
    ncells, fudge = 3 + 20 * draw(3), 0.5 + draw(1)[0]
    if shape.endswith("_star"):  # of their own width hardly a sample would be within a spot
        fudge = fudge * (ncells.mean() / ncells.prod()) ** 2 / a_matrix.square().sum() * 3
    crystal = models.Crystal(
        torch.stack([d @ a_matrix for d in drift]),
        ncells,
        shape,
        fudge,
        tensor(1e4),
        umats,
        ("crystal", "lab")[seed % 2],
    )
    experiment = models.Experiment((panel,), beam, goniometer, crystal)
    phi = phi_steps(360 * float(draw(1)), 0.6, 3)
    exposure = models.Exposure(phi, tuple((k + 0.5) / 3 for k in range(3)))
    layers = (sampling.sensor_layers(panel, int(3 * draw(1)), "absorption"),)
    options = models.SimulationOptions(int(1 + 2 * draw(1)), layers, precision="double")
    h = torch.arange(-40, 41)
    indices = torch.cartesian_prod(h, h, h)
    return experiment, exposure, structure_factors.table(indices, 100 * draw(len(indices))), options


@pytest.mark.parametrize("shape", ["gauss", "tophat", "gauss_star", "tophat_star"])
@pytest.mark.parametrize("seed", range(10))
def test_no_pixel_is_off_by_more_than_the_tolerance(seed, shape):
    experiment, exposure, amplitudes, options = random_model(seed, shape)
    with torch.no_grad():
        dense = simulate(experiment, exposure, amplitudes, options)[0]
        for tolerance in (1e-6 * float(dense.max()), 1e-2 * float(dense.max())):
            loose = dataclasses.replace(options, tolerance=tolerance)
            sparse = simulate(experiment, exposure, amplitudes, loose)[0]
            dropped = sparse == 0
            assert float(dense[dropped].max() if dropped.any() else 0) < tolerance
            kept = ~dropped
            # batches of other lengths: rounding alone, measured worst 2e-15 of the maximum
            assert float((dense - sparse)[kept].abs().max()) <= 1e-13 * float(dense.max())


def test_most_pixels_of_a_large_crystal_are_dropped():
    """Fails if the selection keeps everything: measured 8 % kept."""
    experiment, exposure, amplitudes, options = random_model(3)
    crystal = dataclasses.replace(experiment.crystal, Ncells_abc=tensor([80.0, 90, 100]))
    experiment = dataclasses.replace(experiment, crystal=crystal)
    with torch.no_grad():
        image = simulate(
            experiment, exposure, amplitudes, dataclasses.replace(options, tolerance=1e-3)
        )[0]
    assert 0 < float((image > 0).double().mean()) < 0.3


def test_a_beam_whose_direction_alone_changes_in_the_scan():
    experiment, exposure, amplitudes, options = random_model(2)
    direction = experiment.beam.direction
    drift = from_vector(tensor([0.001, 0.0, 0.0])) @ direction[0].T
    beam = dataclasses.replace(experiment.beam, direction=torch.stack([direction[0], drift.T]))
    experiment = dataclasses.replace(experiment, beam=beam)
    with torch.no_grad():
        dense = simulate(experiment, exposure, amplitudes, options)[0]
        tolerance = 1e-6 * float(dense.max())
        loose = dataclasses.replace(options, tolerance=tolerance)
        sparse = simulate(experiment, exposure, amplitudes, loose)[0]
    assert float((dense - sparse).abs().max()) < tolerance
    assert (sparse == 0).any()


def test_an_amplitude_that_is_no_number_is_not_passed_over():
    experiment, exposure, amplitudes, options = random_model(4)
    amplitudes.Fhkl[41, 41, 42] = math.nan
    with torch.no_grad():
        loose = dataclasses.replace(options, tolerance=1e-3)
        assert simulate(experiment, exposure, amplitudes, loose)[0].nan_to_num(0).max() > 0


@pytest.mark.parametrize("shape", ["square", "round"])
def test_other_shapes_are_computed_everywhere(shape):
    experiment, exposure, amplitudes, options = random_model(1, shape)
    loose = dataclasses.replace(options, tolerance=math.inf)
    with torch.no_grad():
        assert torch.equal(
            simulate(experiment, exposure, amplitudes, loose)[0],
            simulate(experiment, exposure, amplitudes, options)[0],
        )


@pytest.mark.parametrize(
    "change", ({"interpolate": True}, {"water_c_um": 1.0}, {"curved": True}, {"fudge": 0.0})
)
def test_what_has_no_bound_is_computed_everywhere(change):
    """Interpolated amplitudes may exceed the table's, water lights every pixel, a curved detector
    has its samples elsewhere, and without a fudge a spot has no end."""
    experiment, exposure, amplitudes, options = random_model(1)
    if "curved" in change:
        panel = dataclasses.replace(experiment.panels[0], curved=tensor([0.0, 0, -70]))
        experiment = dataclasses.replace(experiment, panels=(panel,))
    elif "fudge" in change:
        crystal = dataclasses.replace(experiment.crystal, fudge=tensor(0.0))
        experiment = dataclasses.replace(experiment, crystal=crystal)
    else:
        options = dataclasses.replace(options, **change)
    loose = dataclasses.replace(options, tolerance=math.inf)
    with torch.no_grad():
        assert torch.equal(
            simulate(experiment, exposure, amplitudes, loose)[0],
            simulate(experiment, exposure, amplitudes, options)[0],
        )


def test_d_min_and_the_tolerance_together():
    experiment, exposure, amplitudes, options = random_model(3)
    cut = dataclasses.replace(options, d_min=2.0)
    with torch.no_grad():
        dense = simulate(experiment, exposure, amplitudes, cut)[0]
        tolerance = 1e-6 * float(dense.max())
        loose = dataclasses.replace(cut, tolerance=tolerance)
        sparse = simulate(experiment, exposure, amplitudes, loose)[0]
        whole = simulate(experiment, exposure, amplitudes, options)[0]
    assert float((dense - sparse).abs().max()) < tolerance
    assert (dense == 0).any() and (whole > 0).all()


def test_gradients_are_dense_s():
    experiment, exposure, amplitudes, options = random_model(5)

    def gradient(tolerance):
        origin = experiment.panels[0].origin.clone().requires_grad_()
        panel = dataclasses.replace(experiment.panels[0], origin=origin)
        moved = dataclasses.replace(experiment, panels=(panel,))
        chosen = dataclasses.replace(options, tolerance=tolerance)
        simulate(moved, exposure, amplitudes, chosen)[0].square().sum().backward()
        return origin.grad

    dense = gradient(0.0)
    assert torch.allclose(gradient(1e-9), dense, rtol=1e-9, atol=1e-12 * float(dense.abs().max()))


def test_progress_counts_every_pixel():
    """With gradients and without; the pixels that a bound drops too."""
    experiment, exposure, amplitudes, options = random_model(3)
    for tolerance in (0.0, 1e-3):
        for grad in (True, False):
            counted = []
            loose = dataclasses.replace(options, tolerance=tolerance)
            with torch.set_grad_enabled(grad):
                simulate(experiment, exposure, amplitudes, loose, counted.append)
            assert sum(counted) == 70 * 54
