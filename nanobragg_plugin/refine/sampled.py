"""How finely models are sampled while they are refined: as finely as it shows in the end, and much
less on the way there."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from nanobragg_plugin import sampling
from nanobragg_plugin.models import Experiment, Exposure, Layers, SimulationOptions
from nanobragg_plugin.refine.parametrisations import Model, MosaicSpread
from nanobragg_plugin.refine.target import Target

#: Of a small domain's spot, how many sigma a sub-pixel may be wide: 1.5 of the sigma that the start
#: has, where Gauss's points are right to 0.3 % of the brightest pixel.
WIDTH = 1.5
#: Domains on the way.
COARSE_DOMAINS = 50


def fine(options: SimulationOptions, experiment: Experiment) -> SimulationOptions:
    """With as many sub-pixels as a spot as sharp as the domains' size makes it needs, two at
    least."""
    sharpest = sampling.SPOT_SIGMA / float(sampling.domain_edges(experiment.crystal).max())
    width = max(
        float(panel.pixel_size.max() / (panel.origin * panel.normal).sum())
        for panel in experiment.panels
    ) / float(experiment.beam.wavelength.min())
    oversample = max(2, math.ceil(width / (WIDTH * sharpest)))
    return replace(options, oversample=oversample, subpixels="moments")


def spread_out(exposure: Exposure) -> Exposure:
    """An exposure whose steps lie in the middle of equal parts, with the same mean and the mean
    square distance from it that all of its angles have."""
    n = len(exposure.phi)
    if n == 1:
        return exposure
    wider = n / math.sqrt(n * n - 1)
    return Exposure(*(_wider(steps, wider) for steps in (exposure.phi, exposure.position)))


def _wider(steps: tuple[float, ...], wider: float) -> tuple[float, ...]:
    mean = math.fsum(steps) / len(steps)
    return tuple(mean + wider * (step - mean) for step in steps)


def coarse(target: Target) -> Target:
    """A target with half the sub-pixels, one sensor layer and few domains: spots are where they
    were, but a little narrower, and lumps."""
    parts = [
        replace(part, domains=min(part.domains, COARSE_DOMAINS))
        if isinstance(part, MosaicSpread)
        else part
        for part in target.model.parts
    ]
    old = target.options
    layers = old.layers and tuple(one and _one_layer(one) for one in old.layers)
    options = replace(old, oversample=(old.oversample + 1) // 2, layers=layers)
    model = Model(target.model.start, parts, target.model.changes)
    return replace(target, model=model, options=options, choices={})


def _one_layer(layers: Layers) -> Layers:
    return replace(layers, edges=torch.stack([layers.edges[0], layers.edges[-1]]))
