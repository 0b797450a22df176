"""How a still changes with a crystal's orientation and cell: its derivatives, pixel by pixel, and
one step of least squares with them.

python examples/derivatives.py
"""

from __future__ import annotations

import torch

from nanobragg_plugin import cell, models, structure_factors
from nanobragg_plugin.jacobian import jacobian
from nanobragg_plugin.rotation import from_vector

FLOAT = torch.float64
CELL = (61.0, 73.0, 79.0, 88.0, 97.0, 92.0)  # Angstrom, degrees
#: Parameters: a rotation vector, radians, and what a, b and c are stretched by.
TRUTH = torch.tensor([1e-4, -2e-4, 1.5e-4, 5e-5, -4e-5, 6e-5], dtype=FLOAT)


def vector(*values: float) -> torch.Tensor:
    """A tensor of float64."""
    return torch.tensor(values, dtype=FLOAT)


def still(parameters: torch.Tensor) -> tuple[models.Experiment, structure_factors.StructureFactors]:
    """A detector at 100 mm, and a crystal of 20 x 18 x 16 cells that the parameters turn and
    stretch."""
    panel = models.Panel(
        origin=vector(-30.0, 26.0, -100.0),
        fast=vector(1, 0, 0),
        slow=vector(0, -1, 0),
        pixel_size=vector(0.2, 0.2),
        image_size=(300, 260),
        thickness=vector(0)[0],
        mu=vector(0)[0],
    )
    beam = models.Beam(
        direction=vector(0, 0, -1)[None, None],
        wavelength=vector(1.0)[None],
        weight=vector(1.0),
        kahn_factor=None,
        polarization_axis=vector(0, 1, 0),
        fluence=vector(1e26)[0],
    )
    edges = vector(*CELL[:3]) * (1 + parameters[3:])
    b_matrix = cell.b_matrix(torch.cat([edges, vector(*CELL[3:])]))
    crystal = models.Crystal(
        A=(from_vector(parameters[:3] + vector(0.3, 0.8, -0.5)) @ b_matrix)[None],
        Ncells_abc=vector(20, 18, 16),
        xtal_shape="gauss",
        fudge=vector(1)[0],
        spot_scale=vector(1)[0],
        umats=torch.eye(3, dtype=FLOAT)[None],
    )
    eye = torch.eye(3, dtype=FLOAT)
    goniometer = models.Goniometer(vector(1, 0, 0), eye, eye[None])
    experiment = models.Experiment((panel,), beam, goniometer, crystal)
    return experiment, structure_factors.constant(100.0)


def main() -> torch.Tensor:
    """The parameters after some steps of Gauss and Newton from 0, less the truth [6]."""
    exposure = models.Exposure(phi=(0.0,), position=(0.0,))
    (data,), _ = jacobian(still, TRUTH, exposure)
    found = torch.zeros(6, dtype=FLOAT)
    for step in range(4):
        (image,), (columns,) = jacobian(still, found, exposure)
        residual = (data - image).flatten()
        change = torch.linalg.lstsq(columns.flatten(1).T, residual[:, None]).solution[:, 0]
        found = found + change
        error = (found - TRUTH).abs().max()
        print(f"step {step + 1}: residual {residual.norm():.3g} photons, error {error:.1e}")
    return found - TRUTH


if __name__ == "__main__":
    main()
