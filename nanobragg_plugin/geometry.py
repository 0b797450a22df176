"""From pixels to scattering vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from nanobragg_plugin.models import Panel


def subpixel_offsets(oversample: int) -> tuple[tuple[float, float], ...]:
    """(slow, fast) offsets of the sub-pixels' centres from a pixel's corner, in pixels, slow
    outermost as in nanoBragg.c."""
    centres = [(i + 0.5) / oversample for i in range(oversample)]
    return tuple((slow, fast) for slow in centres for fast in centres)


def lab_position(panel: Panel, slow: Tensor, fast: Tensor) -> Tensor:
    """Laboratory position [..., 3] mm on the surface of a panel of pixel coordinates [...]
    (a pixel's centre is at +0.5)."""
    along_fast = (fast * panel.pixel_size[0])[..., None] * panel.fast
    along_slow = (slow * panel.pixel_size[1])[..., None] * panel.slow
    return panel.origin + along_fast + along_slow


def unit(v: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors [..., 3] and lengths [...] of vectors."""
    length = torch.linalg.vector_norm(v, dim=-1)
    return v / length[..., None], length


def scattering_vector(s1_unit: Tensor, s0_unit: Tensor, wavelength: Tensor) -> Tensor:
    """q = s1 - s0, 1/Angstrom, no 2 pi; unit vectors [..., 3], wavelength [...] Angstrom."""
    return (s1_unit - s0_unit) / wavelength[..., None]
