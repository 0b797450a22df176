"""One sweep or still: its images simulated in order and written as they come."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from libtbx.utils import Sorry
from torch import Tensor

from nanobragg_plugin import background
from nanobragg_plugin.adapters import background_phil, detector_phil
from nanobragg_plugin.adapters.load import Lookup
from nanobragg_plugin.adapters.params import Plan, torch_device
from nanobragg_plugin.background import Material
from nanobragg_plugin.response import Detector, Response
from nanobragg_plugin.run.writers import NXMX, Form, open_writer
from nanobragg_plugin.simulate import Simulator

logger = logging.getLogger("dials.nanobragg_plugin.run.sweep")

#: Photons in a pixel above which no count could be drawn or written.
MAX_PHOTONS = 1e15


@dataclass(frozen=True)
class Detection:
    """From expected photons to pixel values. background: expected photons in every pixel;
    materials: what lies in the beam, of beam_area m^2; shadow: angle, radians, from the beam to
    where a beam stop hides nothing; gain, pedestal: arrays [slow, fast] a panel in place of the
    panels'; exposures: s of every image, where the response depends on them; masked: whether the
    file's mask names the bad pixels."""

    response: Response = Response()
    background: float = 0.0
    materials: tuple[Material, ...] = ()
    beam_area: float = 0.0
    shadow: float | None = None
    gain: list[np.ndarray] | None = None
    pedestal: list[np.ndarray] | None = None
    exposures: list[float] | None = None
    masked: bool = True

    @classmethod
    def of(cls, params: Any, sweep: int, lookup: Lookup, experiment: Any) -> Detection:
        """Of sweep number `sweep`, from 0, of a list; params: all that are extracted; experiment:
        dxtbx's."""
        detector_phil.refuse_beside(lookup, params.detector)
        device = torch_device(params.compute.device)
        materials = background_phil.materials_of(params.background, device)
        return cls(
            detector_phil.response_of(params, seed_of_sweep(params.noise.seed, sweep)),
            params.background.level,
            materials,
            background_phil.beam_area(params.beam, materials),
            background_phil.beam_stop(params.background.beam_stop),
            lookup.gain,
            lookup.pedestal,
            detector_phil.exposures(params, experiment),
            params.detector.bad_pixels.masked,
        )

    def detector(self, panels: Any) -> Detector:
        """What reads images of dxtbx's panels."""
        return Detector(
            self.response,
            [tuple(reversed(panel.get_image_size())) for panel in panels],
            [panel.get_pixel_size() for panel in panels],
            _per_pixel(self.gain, [panel.get_gain() for panel in panels]),
            _per_pixel(self.pedestal, [panel.get_pedestal() for panel in panels]),
        )


def _per_pixel(arrays: list[np.ndarray] | None, numbers: list[float]) -> list:
    """What is known of each panel: arrays, if there are."""
    return numbers if arrays is None else [torch.from_numpy(one.astype(float)) for one in arrays]


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
    exposure = plan.exposure(index)
    with torch.no_grad():
        expected = simulator.image(exposure, plan.fluences[index])
    if detection.background:
        flats = (background.flat(panel, detection.background) for panel in plan.experiment.panels)
        expected = [image + flat for image, flat in zip(expected, flats)]
    if detection.materials:
        photons = plan.fluences[index] * detection.beam_area
        scattered = simulator.scattered(exposure, detection.materials)
        expected = [image + photons * other for image, other in zip(expected, scattered)]
    if detection.shadow is not None:
        past_stop = simulator.past_stop(exposure, detection.shadow)
        expected = [image * seen for image, seen in zip(expected, past_stop)]
    return expected


def image_number(plan: Plan, index: int) -> int:
    """The number that the scan gives an image; 1 of a still."""
    scan = plan.dxtbx_experiment.scan
    return index + (1 if scan is None else scan.get_image_range()[0])


def readout(
    plan: Plan, index: int, expected: list[Tensor], detector: Detector, exposure_s: float
) -> list[np.ndarray]:
    """Pixel values, numpy [slow, fast] a panel."""
    number = image_number(plan, index)
    brightest = max(float(image.max()) for image in expected)
    if not brightest <= MAX_PHOTONS:
        raise Sorry(
            f"image {number} would have {brightest:.3g} photons in a pixel: lower beam.fluence "
            "(photons/m^2), crystal.spot_scale, the structure factors or background.level"
        )
    return [values.numpy() for values in detector.read(expected, number, exposure_s)]


def run_sweep(
    plan: Plan,
    path: Path,
    detection: Detection,
    provenance: dict[str, Any],
    form: Form = NXMX,
    progress: Callable[[], None] = lambda: None,
) -> list[np.ndarray]:
    """Simulate every image into `path`, as `Outputs.images` has it; the pixels of the first one.

    A file appears only when it is whole: killed or failed, no part of one is under its name.
    """
    first, simulator = None, simulator_of(plan)
    detector = detection.detector(plan.dxtbx_experiment.detector)
    good, rounded = _good(plan, detector if detection.masked else None), detection.response.rounded
    exposures = detection.exposures or [math.inf] * plan.n_images
    with open_writer(
        form,
        path,
        plan.dxtbx_experiment,
        n_images=plan.n_images,
        rounded=rounded,
        provenance=provenance,
        mask=good,
    ) as writer:
        for index in range(plan.n_images):
            expected = expected_photons(simulator, plan, index, detection)
            values = readout(plan, index, expected, detector, exposures[index])
            kept = [image.cpu().numpy() for image in expected] if form.expected else None
            writer.write(index, values, kept)
            if first is None:
                first = values
                brightest = max(float(image.max()) for image in expected)
                logger.info("Brightest pixel of the first image: %.4g photons expected", brightest)
            progress()
    return first


def _good(plan: Plan, detector: Detector | None) -> list[np.ndarray] | None:
    """bool [slow, fast] a panel, True where a pixel was simulated and is none of the detector's bad
    ones; None: all are."""
    masks = [panel.mask for panel in plan.experiment.panels]
    bad = None if detector is None else detector.bad
    if bad is None and all(mask is None for mask in masks):
        return None
    good = [
        np.ones(panel.shape, bool) if panel.mask is None else panel.mask.cpu().numpy()
        for panel in plan.experiment.panels
    ]
    if bad is None:
        return good
    return [one & ~(dead | hot).numpy() for one, (dead, hot) in zip(good, bad)]
