"""The images of one file: what their pixels expect and read, each by itself."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from libtbx.utils import Sorry
from torch import Tensor

from nanobragg_plugin import background
from nanobragg_plugin.adapters import background_measured, background_phil, detector_phil
from nanobragg_plugin.adapters.load import Lookup
from nanobragg_plugin.adapters.params import Part, Plan, torch_device
from nanobragg_plugin.background import Material, Measured
from nanobragg_plugin.models import Beam, Exposure, Panel
from nanobragg_plugin.response import Detector, Response
from nanobragg_plugin.simulate import Choice, Simulator
from nanobragg_plugin.sources import spectrum_of

logger = logging.getLogger("dials.nanobragg_plugin.run.images")

#: Photons in a pixel above which no count could be drawn or written.
MAX_PHOTONS = 1e15


@dataclass(frozen=True)
class Detection:
    """From expected photons to pixel values. background: expected photons in every pixel;
    materials: what lies in the beam, of beam_area m^2; shadow: angle, radians, from the beam to
    where a beam stop hides nothing; gain, pedestal: arrays [slow, fast] a panel in place of the
    panels'; exposures: s of every image, where the response depends on them; masked: whether the
    file's mask names the bad pixels; measured: background as it was measured."""

    response: Response = Response()
    background: float = 0.0
    materials: tuple[Material, ...] = ()
    beam_area: float = 0.0
    shadow: float | None = None
    gain: list[np.ndarray] | None = None
    pedestal: list[np.ndarray] | None = None
    exposures: list[float] | None = None
    masked: bool = True
    measured: Measured = Measured()

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
            background_measured.measured_of(params.background, experiment.detector, device),
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


class Images:
    """The images of one file, of one crystal or of several.

    plans: one a crystal, of the same images, detector and beam; what scatters besides and the
    detector's answer are those of the first.
    """

    def __init__(self, plans: Sequence[Plan], detection: Detection) -> None:
        self.plans, self.detection = tuple(plans), detection
        self.detector = detection.detector(plans[0].dxtbx_experiment.detector)
        self._made: tuple[list[Simulator], ...] | None = None

    @property
    def n_images(self) -> int:
        return self.plans[0].n_images

    @property
    def models(self) -> Any:
        """dxtbx's models that all images share, and the first crystal."""
        return self.plans[0].dxtbx_experiment

    @property
    def crystals(self) -> list[Any]:
        """dxtbx's, one a plan."""
        return [plan.dxtbx_experiment.crystal for plan in self.plans]

    def number(self, index: int) -> int:
        """The number that the scan gives image `index`, from 0; 1 of a still."""
        scan = self.models.scan
        return index + (1 if scan is None else scan.get_image_range()[0])

    def plans_of(self, index: int) -> tuple[tuple[Plan, ...], int]:
        """What image `index` is simulated from, and which of their images it is."""
        return self.plans, index

    def simulators_of(self, index: int) -> tuple[list[Simulator], ...]:
        """Those of every part of every plan of image `index`."""
        if self._made is None:
            self._made = tuple(
                [simulator_of(part, plan) for part in plan.parts] for plan in self.plans
            )
        return self._made

    @torch.no_grad()
    def bragg(self, index: int) -> list[Tensor]:
        """Expected photons [slow, fast] a panel, of all crystals."""
        total: list[Tensor] = []
        plans, own = self.plans_of(index)
        for plan, simulators in zip(plans, self.simulators_of(index)):
            exposure = plan.exposure(own)
            for part, simulator in zip(plan.parts, simulators):
                share = float(part.experiment.beam.fluence)
                image = simulator.image(exposure, share * plan.fluences[own])
                total = [a + b for a, b in zip(total, image)] if total else image
        return total

    @torch.no_grad()
    def expected(self, index: int) -> list[Tensor]:
        """Expected photons [slow, fast] of every panel, background included."""
        (plan, *_), own = self.plans_of(index)
        detection, image = self.detection, self.bragg(index)
        if detection.background:
            panels = plan.experiment.panels
            flats = (background.flat(panel, detection.background) for panel in panels)
            image = [a + b for a, b in zip(image, flats)]
        if detection.materials:
            photons = plan.fluences[own] * detection.beam_area
            scattered = self._of_beam(
                index, lambda of, exposure: of.scattered(exposure, detection.materials)
            )
            image = [a + photons * b for a, b in zip(image, scattered)]
        profile, images = detection.measured.profile, detection.measured.images
        if profile is not None:
            measured = self._of_beam(index, lambda of, exposure: of.measured(exposure, profile))
            image = [a + b for a, b in zip(image, measured)]
        if images is not None:
            more = (background.unmasked(*of) for of in zip(plan.experiment.panels, images))
            image = [a + b for a, b in zip(image, more)]
        past_stop = self.past_stop(index)
        return image if past_stop is None else [a * b for a, b in zip(image, past_stop)]

    def _of_beam(
        self, index: int, see: Callable[[Simulator, Exposure], list[Tensor]]
    ) -> list[Tensor]:
        """What see(simulator, exposure) finds, [slow, fast] a panel, of a photon of the beam: the
        mean over its parts that have amplitudes of their own."""
        (plan, *_), own = self.plans_of(index)
        colours = plan.parts[: max(1, len(plan.amplitudes))]
        exposure, total = plan.exposure(own), []
        for part, simulator in zip(colours, self.simulators_of(index)[0]):
            share = float(part.experiment.beam.fluence)
            image = [share * one for one in see(simulator, exposure)]
            total = [a + b for a, b in zip(total, image)] if total else image
        return total

    def past_stop(self, index: int) -> list[Tensor] | None:
        """What a beam stop lets through to each pixel, 0 to 1, [slow, fast] a panel; None: there is
        none."""
        if self.detection.shadow is None:
            return None
        (plan, *_), own = self.plans_of(index)
        simulator = self.simulators_of(index)[0][0]
        return simulator.past_stop(plan.exposure(own), self.detection.shadow)

    def values(self, index: int, expected: list[Tensor]) -> list[np.ndarray]:
        """What the detector reads: pixel values, numpy [slow, fast] a panel."""
        number, exposures = self.number(index), self.detection.exposures
        brightest = max(float(image.max()) for image in expected)
        if not brightest <= MAX_PHOTONS:
            raise Sorry(
                f"image {number} would have {brightest:.3g} photons in a pixel: lower beam.fluence "
                "(photons/m^2), crystal.spot_scale, the structure factors or background.level"
            )
        exposure_s = exposures[self.plans_of(index)[1]] if exposures else math.inf
        read = self.detector.read(expected, number, exposure_s)
        return [values.numpy() for values in read]

    def spectrum(self) -> tuple[np.ndarray, np.ndarray] | None:
        """`spectrum_of_beams` of the beam."""
        return spectrum_of_beams([part.experiment.beam for part in self.plans[0].parts])

    def good(self) -> list[np.ndarray] | None:
        """`good_pixels` of all images."""
        return good_pixels(self.plans[0].experiment.panels, self.detector, self.detection.masked)


def spectrum_of_beams(beams: Sequence[Beam]) -> tuple[np.ndarray, np.ndarray] | None:
    """Wavelengths, Angstrom, and the photons of each; None of one, or where they change from image
    to image. beams: what adds up to the core's beam."""
    wavelengths, photons = spectrum_of(*beams)
    if len(wavelengths) == 1 or len(beams[0].wavelength) > 1:
        return None
    return wavelengths.cpu().numpy(), photons.cpu().numpy()


def good_pixels(
    panels: Sequence[Panel], detector: Detector, masked: bool
) -> list[np.ndarray] | None:
    """bool [slow, fast] a panel, True where a pixel is simulated and, if they are to be masked, is
    none of the detector's bad ones; None: all are."""
    bad = detector.bad if masked else None
    if bad is None and all(panel.mask is None for panel in panels):
        return None
    good = [
        np.ones(panel.shape, bool) if panel.mask is None else panel.mask.cpu().numpy()
        for panel in panels
    ]
    if bad is None:
        return good
    return [one & ~(dead | hot).numpy() for one, (dead, hot) in zip(good, bad)]


class Stills(Images):
    """Images that have models of their own each: make(index) is what image `index` is simulated
    from, the same whenever it is asked; first: that of image 0."""

    def __init__(
        self, count: int, make: Callable[[int], Plan], first: Plan, detection: Detection
    ) -> None:
        super().__init__([first], detection)
        self.count, self.make = count, make
        self._last: tuple[int, tuple[Plan, ...], tuple[list[Simulator], ...]] | None = None
        self._choice: Choice | None = None

    @property
    def n_images(self) -> int:
        return self.count

    def plans_of(self, index: int) -> tuple[tuple[Plan, ...], int]:
        return self._of(index)[1], 0

    def simulators_of(self, index: int) -> tuple[list[Simulator], ...]:
        return self._of(index)[2]

    def _of(self, index: int) -> tuple[int, tuple[Plan, ...], tuple[list[Simulator], ...]]:
        if self._last is None or self._last[0] != index:
            plan = self.plans[0] if index == 0 else self.make(index)
            if self._choice is None:  # by the first image, whichever is asked for first
                first = self.plans[0]
                self._choice = simulator_of(first.parts[0], first, self.count).choice
            simulators = [Simulator(*_inputs(part, plan)) for part in plan.parts]
            for simulator in simulators:
                simulator.choice = self._choice
            self._last = index, (plan,), (simulators,)
        return self._last


def _inputs(part: Part, plan: Plan) -> tuple:
    return part.experiment, part.structure_factors, plan.options


def simulator_of(part: Part, plan: Plan, images: int | None = None) -> Simulator:
    """What simulates the images of a part of a plan, with the kernel that suits the first one;
    images: how many there will be, if not the plan's."""
    simulator = Simulator(*_inputs(part, plan), images or plan.n_images)
    with torch.no_grad():  # for images that want gradients nothing is compiled
        choice = simulator.choose(plan.exposure(0), plan.fluences[0])
    logger.info("Kernel: %s", choice)
    return simulator
