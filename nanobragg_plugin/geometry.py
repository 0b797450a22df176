"""From pixels to scattering vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nanobragg_plugin.models import Panel, SimulationOptions
from nanobragg_plugin.rotation import about_axis


def subpixel_offsets(options: SimulationOptions) -> tuple[tuple[float, float], ...]:
    """(slow, fast) offsets of where sub-pixels are sampled from a pixel's corner, in pixels, slow
    outermost as in nanoBragg.c."""
    centres = options.subpixel_centres
    return tuple((slow, fast) for slow in centres for fast in centres)


def pixel_numbers(panel: Panel, pixels: Tensor) -> Tensor:
    """Places [n] in the panel's raster of pixels [n, 2] (slow, fast)."""
    return pixels[:, 0] * panel.shape[1] + pixels[:, 1]


def numbered_pixels(panel: Panel, numbers: Tensor) -> Tensor:
    """The reverse: pixels [n, 2] of places [n]."""
    return torch.stack([numbers // panel.shape[1], numbers % panel.shape[1]], 1)


def lab_position(panel: Panel, slow: Tensor, fast: Tensor) -> Tensor:
    """Laboratory position [..., 3] mm on the surface of a panel of pixel coordinates [...]
    (a pixel's centre is at +0.5)."""
    along_fast, along_slow = fast * panel.pixel_size[0], slow * panel.pixel_size[1]
    parts = zip(panel.origin, panel.fast, panel.slow)
    return joined([o + along_fast * f + along_slow * s for o, f, s in parts])


def joined(components: Sequence[Tensor]) -> Tensor:
    """Vectors [..., 3] of x, y and z [...], each of which stays together in memory: operations on
    arrays whose rows are as short as three take several times as long."""
    return torch.stack(tuple(components)).movedim(0, -1)


def dot(v: Tensor, w: Tensor) -> Tensor:
    """The product [...] of vectors [..., 3] with one vector [3]."""
    x, y, z = v.unbind(-1)
    return x * w[0] + y * w[1] + z * w[2]


def curve(panel: Panel, flat: Tensor) -> Tensor:
    """Where nanoBragg.c's curved detector has points [..., 3] mm of the flat panel: everywhere at
    one distance from the crystal.

    `panel.curved` (along the beam to the middle, mm) is turned about the panel's slow axis by
    y/distance and then about its fast axis by z/distance, y and z the laboratory components of
    the flat point (nanoBragg.c, `curved_detector`). It is here to compare with nanoBragg.c alone:
    the image is mirrored, and it only makes sense of a beam along x, so that y and z lie in
    the panel.
    """
    middle = panel.curved
    distance = torch.linalg.vector_norm(middle)
    first = about_axis(panel.slow, flat[..., 1] / distance)
    second = about_axis(panel.fast, flat[..., 2] / distance)
    # sums, not products of matrices, whose rounding depends on how many there are
    turned = (first * middle).sum(-1)
    return (second * turned[..., None, :]).sum(-1)


def unit(v: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors [..., 3] and lengths [...] of vectors."""
    x, y, z = v.unbind(-1)
    length = (x * x + y * y + z * z).sqrt()  # many times as fast as torch's norm
    return v / length[..., None], length


def scattering_vector(s1_unit: Tensor, s0_unit: Tensor, wavelength: Tensor) -> Tensor:
    """q = s1 - s0, 1/Angstrom, no 2 pi; unit vectors [..., 3], wavelength [...] Angstrom."""
    return (s1_unit - s0_unit) / wavelength[..., None]
