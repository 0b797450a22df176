"""A small still or sweep for the tests of nanobragg_plugin.refine: core models, tiles as shoeboxes.

The panel is not square, the crystal triclinic, the amplitudes random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nanobragg_plugin import cell, models, mosaic, structure_factors
from nanobragg_plugin.refine import data, parametrisations
from nanobragg_plugin.rotation import from_vector, phi_steps
from nanobragg_plugin.simulate import simulate

FLOAT = torch.float64
CELL = (47.0, 53.0, 61.0, 84.0, 97.0, 102.0)
NCELLS = (9.0, 9.0, 9.0)
SPREAD_DEG = 0.35
OPTIONS = models.SimulationOptions(oversample=1, compile="never", tolerance=1e-4)
TILE = 9


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=FLOAT)


def amplitudes(seed: int = 7) -> structure_factors.StructureFactors:
    """Random, 20 to 120 electrons, up to index 14."""
    made = torch.Generator().manual_seed(seed)
    one = torch.arange(-14, 15)
    indices = torch.cartesian_prod(one, one, one)
    values = 20 + 100 * torch.rand(len(indices), generator=made, dtype=FLOAT)
    return structure_factors.table(indices, values)


def experiment(domains: int = 12, seed: int = 0, spread_deg: float = SPREAD_DEG):
    """The true one."""
    panel = models.Panel(
        origin=vector(-19.0, 17.0, -80.0),
        fast=vector(1, 0, 0),
        slow=vector(0, -1, 0),
        pixel_size=vector(0.3, 0.3),
        image_size=(125, 112),
        thickness=vector(0)[0],
        mu=vector(0)[0],
    )
    beam = models.Beam(
        direction=vector(0, 0, -1)[None, None],
        wavelength=vector(1.0)[None],
        weight=vector(1.0),
        kahn_factor=None,
        polarization_axis=vector(0, 1, 0),
        fluence=vector(1.0)[0],
    )
    spread = torch.deg2rad(vector(spread_deg)[0])
    crystal = models.Crystal(
        A=(from_vector(vector(0.3, 0.8, -0.5)) @ cell.b_matrix(vector(*CELL)))[None],
        Ncells_abc=vector(*NCELLS),
        xtal_shape="gauss",
        fudge=vector(1)[0],
        spot_scale=vector(1)[0],
        umats=mosaic.mosaic_umats(spread, domains, "gaussian", seed),
    )
    eye = torch.eye(3, dtype=FLOAT)
    goniometer = models.Goniometer(vector(1, 0, 0), eye, eye[None])
    return models.Experiment((panel,), beam, goniometer, crystal)


def parts(true: models.Experiment, domains: int = 12, seed: int = 0) -> dict:
    """What may be refined of it."""
    identity = torch.eye(6, dtype=FLOAT)
    names = ("a", "b", "c", "alpha", "beta", "gamma")
    return {
        "cell": parametrisations.Cell(vector(*CELL)[None], names, CELL, identity),
        "orientation": parametrisations.Orientation(),
        "Ncells": parametrisations.Ncells(NCELLS),
        "mosaic": parametrisations.MosaicSpread((SPREAD_DEG,), domains, "gaussian", seed),
        "scale": parametrisations.Scale(),
        "wavelength": parametrisations.Wavelength(1.0),
        "beam": parametrisations.BeamDirection(parametrisations.across(true.beam.direction[0, 0])),
        "detector": parametrisations.DetectorPlace(
            (0,), vector(0.0, 0.0, -80.0), torch.eye(3, dtype=FLOAT) * vector(1, -1, -1)
        ),
    }


def exposures(images: int = 1, width_deg: float = 0.0, steps: int = 1) -> list[models.Exposure]:
    """A still, or images of a rotation."""
    return [
        models.Exposure(
            phi_steps(number * width_deg, width_deg, steps),
            tuple(number + (k + 0.5) / steps for k in range(steps)),
        )
        for number in range(images)
    ]


def expected(
    true: models.Experiment, exposure: models.Exposure, fluence: float, flat: float = 2.0
) -> Tensor:
    """Photons [slow, fast] of the crystal, and a background that slopes about `flat`."""
    lit = replace(true, beam=replace(true.beam, fluence=vector(fluence)[0]))
    (image,) = simulate(lit, exposure, amplitudes(), OPTIONS)
    slope = torch.linspace(0.7, 1.3, image.shape[1], dtype=FLOAT)
    return image.double() + flat * slope


def tiles(images: Sequence[Tensor], photons: float) -> tuple[list[Tensor], int]:
    """Labels [slow, fast] of square tiles that have as many photons above the background in some
    image; each tile is a shoebox through all images."""
    shape = images[0].shape
    rows, columns = (torch.arange(size) // TILE for size in shape)
    tile = rows[:, None] * (shape[1] // TILE + 1) + columns[None, :]
    total = torch.zeros(int(tile.max()) + 1, dtype=FLOAT)
    for image in images:
        bright = (image - 5.0).clamp(min=0)
        total = torch.maximum(
            total, total.new_zeros(len(total)).index_add_(0, tile.flatten(), bright.flatten())
        )
    chosen = total > photons
    numbers = torch.where(chosen, torch.cumsum(chosen, 0) - 1, torch.full_like(total, -1).long())
    return [numbers[tile]] * len(images), int(chosen.sum())


def data_of(
    images: Sequence[Tensor], labels: tuple[list[Tensor], int], shots: Sequence, fluence: float
) -> data.Data:
    """Of counts [slow, fast] an image."""
    pictures = [
        data.picture([image], [label], number + 1, shot, fluence)
        for number, (image, label, shot) in enumerate(zip(images, labels[0], shots))
    ]
    return data.centred(pictures, labels[1])
