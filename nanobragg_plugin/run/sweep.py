"""One sweep or still: its images simulated in order and written as they come."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanobragg_plugin import background, noise
from nanobragg_plugin.adapters.params import Plan
from nanobragg_plugin.format.nxmx_writer import NXmxWriter
from nanobragg_plugin.simulate import simulate

logger = logging.getLogger("dials.nanobragg_plugin.run.sweep")


@dataclass(frozen=True)
class Detection:
    """From expected photons to pixel values: poisson, seed: the noise; background: expected
    photons in every pixel."""

    poisson: bool = True
    seed: int = 0
    background: float = 0.0


def expected_photons(plan: Plan, index: int, detection: Detection) -> list[Tensor]:
    """Expected photons [slow, fast] of every panel of image `index`, background included."""
    experiment = plan.experiment_of_image(index)
    with torch.no_grad():
        bragg = simulate(experiment, plan.exposure(index), plan.structure_factors, plan.options)
    return [
        image + background.flat(panel, detection.background)
        for image, panel in zip(bragg, experiment.panels)
    ]


def image_number(plan: Plan, index: int) -> int:
    """The number that the scan gives an image; 1 of a still."""
    scan = plan.dxtbx_experiment.scan
    return index + (1 if scan is None else scan.get_image_range()[0])


def readout(plan: Plan, index: int, expected: list[Tensor], detection: Detection) -> list:
    """Pixel values, numpy [slow, fast] a panel: counts x gain + pedestal of the panel; expected
    photons as they are without noise."""
    if not detection.poisson:
        return [image.cpu().numpy() for image in expected]
    counts = noise.poisson(expected, detection.seed, image_number(plan, index))
    return [
        count.numpy() * panel.get_gain() + panel.get_pedestal()
        for count, panel in zip(counts, plan.dxtbx_experiment.detector)
    ]


def run_sweep(
    plan: Plan,
    path: Path,
    detection: Detection,
    provenance: dict[str, Any],
    compression: str = "gzip",
    progress: Callable[[], None] = lambda: None,
) -> list[Tensor]:
    """Simulate every image into the NXmx file `path`; the expected photons of the first one.

    The file appears only when it is whole: killed or failed, nothing is left under its name.
    """
    masks = [panel.mask for panel in plan.experiment.panels]
    first = None
    with NXmxWriter(
        path,
        plan.dxtbx_experiment,
        n_images=plan.n_images,
        dtype="int32" if detection.poisson else "float32",
        compression=compression,
        provenance=provenance,
        mask=None if all(mask is None for mask in masks) else _good(plan),
        expected=not detection.poisson,
    ) as writer:
        for index in range(plan.n_images):
            expected = expected_photons(plan, index, detection)
            writer.write(index, readout(plan, index, expected, detection))
            if first is None:
                first = expected
                brightest = max(float(image.max()) for image in expected)
                logger.info("Brightest pixel of the first image: %.4g photons expected", brightest)
            progress()
    return first


def _good(plan: Plan) -> list[np.ndarray]:
    """bool [slow, fast] a panel, True where a pixel was simulated."""
    return [
        np.ones(panel.shape, bool) if panel.mask is None else panel.mask.cpu().numpy()
        for panel in plan.experiment.panels
    ]
