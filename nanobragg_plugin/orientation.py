"""The crystal's real-space vectors at every phi step and mosaic domain of an image."""

from __future__ import annotations

import torch
from torch import Tensor

from nanobragg_plugin.models import Beam, Crystal, Exposure, Goniometer
from nanobragg_plugin.rotation import about_axis


def at_positions(points: Tensor, position: Tensor) -> Tensor:
    """A model's values at scan points [points, ...], linearly between them (as dials.predict
    takes them), at `position` [steps] in images from the first: [steps, ...], or [1, ...] of a
    static model."""
    last = points.shape[0] - 1
    if last == 0:
        return points
    lower = position.floor().clamp(0, last - 1)
    share = (position - lower).reshape(-1, *[1] * (points.ndim - 1)).to(points.dtype)
    index = lower.long()
    return points[index] * (1 - share) + points[index + 1] * share


def points_of(exposure: Exposure, points: int) -> tuple[int, int]:
    """The first and the last of so many scan points between which `at_positions` has an image."""
    steps = torch.tensor(exposure.position, dtype=torch.float64)
    lower = steps.floor().clamp(0, max(points - 2, 0))
    return int(lower.min()), min(int(lower.max()) + 1, points - 1)


def _positions(exposure: Exposure, like: Tensor) -> Tensor:
    return torch.tensor(exposure.position, dtype=torch.float64, device=like.device)


def rotations(goniometer: Goniometer, exposure: Exposure) -> Tensor:
    """R = S Rot(e, phi) F of every step: [steps, 3, 3]."""
    axis = goniometer.axis
    phi = torch.tensor(exposure.phi, dtype=axis.dtype, device=axis.device)
    setting = at_positions(goniometer.setting, _positions(exposure, axis))
    return setting @ about_axis(axis.expand(len(exposure.phi), 3), phi) @ goniometer.fixed


def real_space_vectors(crystal: Crystal, goniometer: Goniometer, exposure: Exposure) -> Tensor:
    """a, b, c in the laboratory, Angstrom, [steps, domains, 3 (a b c), 3 (x y z)].

    The rows of (R U_m A)^-1 (mosaic_frame crystal) or of (U_m R A)^-1 (lab): h of q is their
    product with q.
    """
    a_matrix = at_positions(crystal.A, _positions(exposure, crystal.A))[:, None]
    r_matrix = rotations(goniometer, exposure)[:, None]
    umats = crystal.umats[None]
    if crystal.mosaic_frame == "lab":
        reciprocal = umats @ (r_matrix @ a_matrix)
    else:
        reciprocal = r_matrix @ (umats @ a_matrix)
    return torch.linalg.inv(reciprocal)


def incident(beam: Beam, exposure: Exposure) -> tuple[Tensor, Tensor]:
    """Unit vectors [steps or 1, sources, 3] along the incident beam and wavelengths
    [steps or 1, sources] Angstrom."""
    position = _positions(exposure, beam.direction)
    direction = at_positions(beam.direction, position)
    direction = direction / torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
    return direction, at_positions(beam.wavelength, position)
