"""Where the samples of a pixel lie: its sub-pixels, at the depths of the sensor's layers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, ones_like

from nanobragg_plugin.corrections import capture_fraction, layer_depth
from nanobragg_plugin.geometry import curve, lab_position, unit
from nanobragg_plugin.models import Layers, Panel


@dataclass(frozen=True)
class Sample:
    """Where a layer's sub-pixel lies: position [n, 3] mm, s1_unit [n, 3], distance [n] mm,
    cosine [n] = |s1 . n|."""

    position: Tensor
    s1_unit: Tensor
    distance: Tensor
    cosine: Tensor


def layer_count(layers: Layers | None) -> int:
    """Sensor layers; 1 of a panel without a sensor."""
    return 1 if layers is None else len(layers.edges) - 1


def sample_of(
    panel: Panel, pixels: Tensor, offset: tuple[float, float], layers: Layers | None, layer: int
) -> Sample:
    """The points of a sub-pixel, as deep in the sensor as the layer is sampled."""
    slow, fast = (
        pixels[:, axis].to(panel.origin.dtype) + shift for axis, shift in enumerate(offset)
    )
    position = lab_position(panel, slow, fast)
    s1_unit, distance = unit(position)
    normal = panel.normal
    cosine = (s1_unit * normal).sum(-1)
    if layers is not None:
        depth = layer_depth(layers, layer, panel.mu, cosine)
        position = position + depth[:, None] * normal
    if panel.curved is not None:
        position = curve(panel, position)
    if layers is not None or panel.curved is not None:
        s1_unit, distance = unit(position)
        cosine = (s1_unit * normal).sum(-1).abs()  # a curved detector may turn away from its plane
    return Sample(position, s1_unit, distance, cosine)


def capture_of(panel: Panel, sample: Sample, layers: Layers | None, layer: int) -> Tensor:
    """Fraction [n] of the photons that a layer captures; 1 without a sensor."""
    if layers is None:
        return ones_like(sample.distance)
    return capture_fraction(layers, layer, panel.mu, sample.cosine)
