"""Solid angle, polarization and sensor capture of a sample."""

from __future__ import annotations

import torch
from torch import Tensor

from nanobragg_plugin.geometry import dot
from nanobragg_plugin.models import Layers, Panel


def solid_angle(panel: Panel, distance: Tensor, plane: Tensor, point_pixel: bool = False) -> Tensor:
    """Steradian subtended by a pixel at `distance` [...] mm from the crystal: p_fast p_slow
    D / R^3; plane [...] mm is D, the distance of the plane that the pixel is seen in. A point
    pixel: 1/R^2, R in metres, as nanoBragg.c has it (not a solid angle; for parity only)."""
    if point_pixel:
        return (distance * 1e-3) ** -2
    return panel.pixel_size.prod() * plane / distance**3


def seen_plane(panel: Panel, layers: Layers | None, distance: Tensor, cosine: Tensor) -> Tensor:
    """Distance, mm, of the plane in which a sample [...] at `distance` sees its pixel: that of the
    depth it is at; with `start` sampling, and of a curved detector, the (flat) panel's surface,
    as nanoBragg.c has it."""
    if layers is None or layers.sampling == "start" or panel.curved is not None:
        return (panel.origin * panel.normal).sum()
    return distance * cosine


def polarization(s1_unit: Tensor, s0_unit: Tensor, axis: Tensor, kahn_factor: Tensor) -> Tensor:
    """Kahn factor of polarization of unit vectors [..., 3] in a beam along s0_unit [3]; axis [3]: E
    vector of the beam.

    (1 + cos^2 2theta - K ((s1.E)^2 - (s1.B)^2))/2, B along axis x s0, E along s0 x B: Kahn et
    al. (1982), J. Appl. Cryst. 15, 330-337, as nanoBragg.c's `polarization_factor`, without the
    angle psi, whose gradient is not defined on the beam.
    """
    b = torch.linalg.cross(axis, s0_unit)
    b = b / torch.linalg.vector_norm(b)
    e = torch.linalg.cross(s0_unit, b)
    cos_2theta, along_e, along_b = (dot(s1_unit, v) for v in (s0_unit, e, b))
    return (1 + cos_2theta**2 - kahn_factor * (along_e**2 - along_b**2)) / 2


def capture_fraction(layers: Layers, layer: int, mu: Tensor, cosine: Tensor) -> Tensor:
    """Fraction of the photons absorbed in a layer; cosine [...]: |s1 . n|; mu [] 1/mm."""
    top, bottom = (layers.edges[i].to(cosine.dtype) for i in (layer, layer + 1))
    rate = mu / cosine
    return torch.exp(-top * rate) - torch.exp(-bottom * rate)


def layer_depth(layers: Layers, layer: int, mu: Tensor, cosine: Tensor) -> Tensor:
    """Depth [...] mm along the normal at which a layer is sampled.

    `start` is nanoBragg.c's (half a layer short); `absorption` the mean depth of absorption
    in the layer, the first moment of exp(-mu z/cosine): spots then shift as in reality even
    where there are few layers.
    """
    top, bottom = (layers.edges[i].to(cosine.dtype) for i in (layer, layer + 1))
    thickness = bottom - top
    if layers.sampling == "start":
        return top.expand_as(cosine)
    if layers.sampling == "midpoint":
        return (top + thickness / 2).expand_as(cosine)
    x = thickness * mu / cosine
    small = x < 1e-3
    safe = torch.where(small, torch.ones_like(x), x)
    # beyond 80 the second term is below rounding, and its gradient would overflow
    share = torch.where(small, 0.5 - x / 12, 1 / safe - 1 / torch.expm1(safe.clamp(max=80)))
    return top + thickness * share
