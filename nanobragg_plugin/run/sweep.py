"""One sweep or still: its images simulated in order and written as they come."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from libtbx.utils import Sorry
from torch import Tensor

from nanobragg_plugin import background, noise
from nanobragg_plugin.adapters.load import Lookup
from nanobragg_plugin.adapters.params import Plan
from nanobragg_plugin.format.nxmx_writer import NXmxWriter
from nanobragg_plugin.simulate import Simulator

logger = logging.getLogger("dials.nanobragg_plugin.run.sweep")

#: Photons in a pixel above which no count could be drawn or written.
MAX_PHOTONS = 1e15


@dataclass(frozen=True)
class Detection:
    """From expected photons to pixel values: poisson, seed: the noise; background: expected
    photons in every pixel; gain, pedestal: arrays [slow, fast] a panel in place of the panels'."""

    poisson: bool = True
    seed: int = 0
    background: float = 0.0
    gain: list[np.ndarray] | None = None
    pedestal: list[np.ndarray] | None = None

    @classmethod
    def of(cls, params: Any, sweep: int, lookup: Lookup) -> Detection:
        """Of sweep number `sweep`, from 0, of a list; params: all that are extracted."""
        return cls(
            params.noise.poisson,
            seed_of_sweep(params.noise.seed, sweep),
            params.background.level,
            lookup.gain,
            lookup.pedestal,
        )


def seed_of_sweep(seed: int, sweep: int) -> int:
    """The seed of a sweep of a list: the first one's is the seed itself. The others', whose
    images may bear the same numbers, differ, or all stills would have the same noise."""
    if sweep == 0:
        return seed
    digest = hashlib.sha256(f"nanobragg sweep {seed} {sweep}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def simulator_of(plan: Plan) -> Simulator:
    """What simulates the images of a plan, with the kernel that suits the first one."""
    simulator = Simulator(plan.experiment, plan.structure_factors, plan.options, plan.n_images)
    with torch.no_grad():  # for images that want gradients nothing is compiled
        choice = simulator.choose(plan.exposure(0), plan.fluences[0])
    logger.info("Kernel: %s", choice)
    return simulator


def expected_photons(
    simulator: Simulator, plan: Plan, index: int, detection: Detection
) -> list[Tensor]:
    """Expected photons [slow, fast] of every panel of image `index`, background included."""
    with torch.no_grad():
        bragg = simulator.image(plan.exposure(index), plan.fluences[index])
    return [
        image + background.flat(panel, detection.background)
        for image, panel in zip(bragg, plan.experiment.panels)
    ]


def image_number(plan: Plan, index: int) -> int:
    """The number that the scan gives an image; 1 of a still."""
    scan = plan.dxtbx_experiment.scan
    return index + (1 if scan is None else scan.get_image_range()[0])


def readout(plan: Plan, index: int, expected: list[Tensor], detection: Detection) -> list:
    """Pixel values, numpy [slow, fast] a panel: photons x gain + pedestal, with the photons
    counted (Poisson), or without noise as expected."""
    number = image_number(plan, index)
    brightest = max(float(image.max()) for image in expected)
    if not brightest <= MAX_PHOTONS:
        raise Sorry(
            f"image {number} would have {brightest:.3g} photons in a pixel: lower beam.fluence "
            "(photons/m^2), crystal.spot_scale, the structure factors or background.level"
        )
    photons = [image.cpu() for image in expected]
    if detection.poisson:
        photons = noise.poisson(expected, detection.seed, number)
    panels = plan.dxtbx_experiment.detector
    gains = detection.gain or [panel.get_gain() for panel in panels]
    pedestals = detection.pedestal or [panel.get_pedestal() for panel in panels]
    return [
        image.numpy() * gain + pedestal for image, gain, pedestal in zip(photons, gains, pedestals)
    ]


def run_sweep(
    plan: Plan,
    path: Path,
    detection: Detection,
    provenance: dict[str, Any],
    compression: str = "gzip",
    progress: Callable[[], None] = lambda: None,
) -> list[np.ndarray]:
    """Simulate every image into the NXmx file `path`; the pixel values of the first one.

    The file appears only when it is whole: killed or failed, nothing is left under its name.
    """
    masks = [panel.mask for panel in plan.experiment.panels]
    first, simulator = None, simulator_of(plan)
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
            expected = expected_photons(simulator, plan, index, detection)
            values = readout(plan, index, expected, detection)
            writer.write(index, values)
            if first is None:
                first = values
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
