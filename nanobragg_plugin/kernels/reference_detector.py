"""The detector of the reference kernel: where a pixel's samples lie, and what they see and absorb.

Like `reference`, whose other half this is, it shares no helper with the other kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanobragg_plugin.models import Layers, Panel


def sampled_point(
    panel: Panel, layers: Layers | None, layer: int, slow: float, fast: float
) -> Tensor:
    """The sampled point [3] mm; of a curved detector (nanoBragg.c) its middle turned about the slow
    axis by y/distance, then about the fast one by z/distance, y and z of the flat panel's point.
    """
    flat = point_in_sensor(panel, layers, layer, slow, fast)
    if panel.curved is None:
        return flat
    distance = length(panel.curved)
    return turned(
        turned(panel.curved, panel.slow, flat[1] / distance), panel.fast, flat[2] / distance
    )


def turned(v: Tensor, axis: Tensor, angle: Tensor) -> Tensor:
    """v turned about a unit vector, right-handedly."""
    along = axis * (axis @ v)
    return along + (v - along) * torch.cos(angle) + cross(axis, v) * torch.sin(angle)


def point_in_sensor(
    panel: Panel, layers: Layers | None, layer: int, slow: float, fast: float
) -> Tensor:
    """The sampled point [3] mm of pixel coordinates (a pixel's centre at +0.5) in a layer."""
    x, y = fast * panel.pixel_size[0], slow * panel.pixel_size[1]
    surface = panel.origin + x * panel.fast + y * panel.slow
    if layers is None:
        return surface
    top, bottom = layers.edges[layer], layers.edges[layer + 1]
    if layers.sampling == "start":
        depth = top
    elif layers.sampling == "midpoint":
        depth = (top + bottom) / 2
    else:  # absorption: the mean of z over exp(-z mu/rho) between top and bottom
        rate = panel.mu / cos_incidence(panel, surface / length(surface))
        at_top, at_bottom = torch.exp(-top * rate), torch.exp(-bottom * rate)
        depth = 1 / rate + (top * at_top - bottom * at_bottom) / (at_top - at_bottom)
    return surface + depth * normal(panel)


def solid_angle(panel: Panel, layers: Layers | None, position: Tensor, point_pixel: bool) -> Tensor:
    """p_fast p_slow D/R^3, D the distance of the plane at the sample's depth (nanoBragg.c, hence
    `start` and curved: of the panel's surface); a point: 1/R^2, R in metres."""
    if point_pixel:
        return 1 / (length(position) / 1000) ** 2
    at_surface = layers is None or layers.sampling == "start" or panel.curved is not None
    plane = (panel.origin if at_surface else position) @ normal(panel)
    return panel.pixel_size[0] * panel.pixel_size[1] * plane / length(position) ** 3


def absorbed_in(panel: Panel, layers: Layers | None, layer: int, s1: Tensor) -> Tensor:
    """The fraction of photons along s1 that is absorbed between a layer's top and bottom."""
    if layers is None:
        return torch.ones((), dtype=torch.float64)
    rate = panel.mu / cos_incidence(panel, s1)
    return torch.exp(-layers.edges[layer] * rate) - torch.exp(-layers.edges[layer + 1] * rate)


def cos_incidence(panel: Panel, s1: Tensor) -> Tensor:
    """rho = |s1 . n|."""
    return (s1 @ normal(panel)).abs()


def normal(panel: Panel) -> Tensor:
    """The panel's unit normal, away from the crystal, or what stands for it."""
    if panel.odet is not None:
        return panel.odet
    n = cross(panel.fast, panel.slow)
    n = n / length(n)
    return n if panel.origin @ n >= 0 else -n


def length(v: Tensor) -> Tensor:
    """|v|."""
    return torch.sqrt(v @ v)


def cross(u: Tensor, v: Tensor) -> Tensor:
    """u x v of [3]."""
    x = u[1] * v[2] - u[2] * v[1]
    y = u[2] * v[0] - u[0] * v[2]
    return torch.stack([x, y, u[0] * v[1] - u[1] * v[0]])
