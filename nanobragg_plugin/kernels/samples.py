"""Where the samples of a pixel lie: its sub-pixels, at the depths of the sensor's layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, ones_like

from nanobragg_plugin.corrections import capture_fraction, layer_depth, seen_plane, solid_angle
from nanobragg_plugin.geometry import curve, dot, joined, lab_position, subpixel_offsets, unit
from nanobragg_plugin.models import Layers, Panel, SimulationOptions


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
    cosine = dot(s1_unit, normal)
    if layers is not None:
        depth = layer_depth(layers, layer, panel.mu, cosine)
        position = joined([x + depth * n for x, n in zip(position.unbind(-1), normal)])
    if panel.curved is not None:
        position = curve(panel, position)
    if layers is not None or panel.curved is not None:
        s1_unit, distance = unit(position)
        cosine = dot(s1_unit, normal).abs()  # a curved detector may turn away from its plane
    return Sample(position, s1_unit, distance, cosine)


def capture_of(panel: Panel, sample: Sample, layers: Layers | None, layer: int) -> Tensor:
    """Fraction [n] of the photons that a layer captures; 1 without a sensor."""
    if layers is None:
        return ones_like(sample.distance)
    return capture_fraction(layers, layer, panel.mu, sample.cosine)


def weighted_samples(
    panel: Panel,
    pixels: Tensor,
    options: SimulationOptions,
    number: int,
    show: Callable[..., None],
) -> Iterator[tuple[Sample, Tensor, Tensor]]:
    """Every layer's sub-pixels of panel `number` with their solid angle and capture [n]: their own,
    or the first sub-pixel's (solid angle: of layer 0) where a factor is taken once."""
    layers = options.layers_of(number)
    offsets = subpixel_offsets(options)
    omega = None
    for layer in range(layer_count(layers)):
        capture = None
        if layers is not None and layers.capture == "last":
            last = sample_of(panel, pixels, offsets[0], layers, layer_count(layers) - 1)
            capture = capture_of(panel, last, layers, layer_count(layers) - 1)
        for offset in offsets:
            sample = sample_of(panel, pixels, offset, layers, layer)
            if omega is None or options.oversample_omega:
                plane = seen_plane(panel, layers, sample.distance, sample.cosine)
                omega = solid_angle(panel, sample.distance, plane, options.point_pixel)
            if capture is None or options.oversample_thick:
                capture = capture_of(panel, sample, layers, layer)
            made = {"plane": plane, "omega": omega, "capture": capture}
            show("sample", layer=layer, offset=offset, **vars(sample), **made)
            yield sample, omega, capture


def captured_once(panel: Panel, pixels: Tensor, options: SimulationOptions, number: int) -> Tensor:
    """The part of nanoBragg.c's water that is captured, [n].

    Less than all only where capture is taken once: as the last layer captures, nanoBragg.c's
    defect, or as all layers together, which is what that defect stands for.
    """
    layers = options.layers_of(number)
    if layers is None or options.oversample_thick:
        return ones_like(pixels[:, 0], dtype=panel.origin.dtype)
    offset = subpixel_offsets(options)[0]
    first = layer_count(layers) - 1 if layers.capture == "last" else 0
    captured = 0
    for layer in range(first, layer_count(layers)):
        sample = sample_of(panel, pixels, offset, layers, layer)
        captured = captured + capture_of(panel, sample, layers, layer)
    return captured
