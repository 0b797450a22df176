"""From expected photons to pixel values, in the order in which a detector acts.

Expected photons; flicker of the source and errors of the calibration, which change how many are
expected (a pixel that is less sensitive loses photons, so that its noise is a smaller signal's);
photons counted (Poisson); what arrives too fast lost (dead time); the point spread; zingers; gain;
read-out noise; offset; dead and hot pixels; rounding and saturation. The order, and noises that
are proportional to the signal, as in nanoBragg.c's companion noisify and simtbx' add_noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

import torch
from torch import Tensor

from nanobragg_plugin import noise
from nanobragg_plugin.point_spread import PointSpread, Spread

#: A number for all pixels of a panel, or one for each [slow, fast].
PerPixel = Union[float, Tensor]
DEAD_TIMES = "nonparalyzable", "paralyzable"


@dataclass(frozen=True)
class BadPixels:
    """dead, hot: the share of pixels that read the offset, or hot_adu, whatever falls on them;
    which, the seed decides, and no two of a seed differ."""

    dead: float = 0.0
    hot: float = 0.0
    hot_adu: float = 0.0
    seed: int = 0

    def drawn(self, shapes: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
        """Which are dead, and which are hot, bool [slow, fast] of panels of these shapes."""
        random = noise.generator(self.seed, None, "bad pixels")
        found = []
        for shape in shapes:
            drawn = torch.rand(shape, generator=random, dtype=torch.float64)
            dead = drawn < self.dead
            found.append((dead, (drawn < self.dead + self.hot) & ~dead))
        return found


@dataclass(frozen=True)
class Response:
    """poisson: whether photons are counted, else as many as expected; seed: of the noise of images.

    flicker, calibration: relative standard deviations, of each pixel's photons in each image, and
    of its sensitivity (whose errors `calibration_seed` decides, the same in all images).
    dead_time_s: of a pixel's counter, which of n photons leaves n/(1 + n t) or, paralyzable,
    n exp(-n t), t its share of the exposure (Knoll, Radiation Detection and Measurement, ch. 4).
    spread: of a photon's signal. zingers: events in an image, expected; zinger_photons: their mean
    signal, exponentially distributed. readout_noise_adu: standard deviation of the read-out noise.
    saturation_adu: the highest value that is read. rounded: whether values are whole numbers.
    """

    poisson: bool = True
    seed: int = 0
    flicker: float = 0.0
    calibration: float = 0.0
    calibration_seed: int = 0
    dead_time_s: float = 0.0
    dead_time_model: str = "nonparalyzable"
    spread: PointSpread | None = None
    zingers: float = 0.0
    zinger_photons: float = 0.0
    readout_noise_adu: float = 0.0
    bad: BadPixels = BadPixels()
    saturation_adu: float = math.inf
    rounded: bool = True

    def __post_init__(self) -> None:
        shares = self.flicker, self.calibration, self.dead_time_s, self.bad.dead, self.bad.hot
        others = self.zingers, self.zinger_photons, self.readout_noise_adu
        if not all(x >= 0 for x in (*shares, *others)) or not self.bad.dead + self.bad.hot <= 1:
            raise ValueError("noise must not be negative, nor more pixels bad than there are")
        if self.dead_time_model not in DEAD_TIMES:
            raise ValueError(f"dead time {self.dead_time_model!r} is none of {DEAD_TIMES}")


class Detector:
    """Reads images of panels of shapes (slow, fast) and pixel sizes (fast, slow), mm: what images
    share is made once. gain: ADU a photon; offset: ADU of none."""

    def __init__(
        self,
        response: Response,
        shapes: Sequence[tuple[int, int]],
        pixel_sizes: Sequence[tuple[float, float]],
        gain: Sequence[PerPixel],
        offset: Sequence[PerPixel],
    ) -> None:
        self.response, self.shapes, self.gain, self.offset = response, shapes, gain, offset
        self.sensitivity: list[Tensor] | None = None
        if response.calibration:
            random = noise.generator(response.calibration_seed, None, "calibration")
            self.sensitivity = [
                (1 + response.calibration * noise.normal(shape, random)).clamp(min=0)
                for shape in shapes
            ]
        self.spreads: list[Spread] | None = None
        if response.spread is not None:
            self.spreads = [Spread(response.spread, *of) for of in zip(shapes, pixel_sizes)]
        self.bad = response.bad.drawn(shapes) if response.bad.dead or response.bad.hot else None

    def read(
        self, expected: Sequence[Tensor], image: int, exposure_s: float = math.inf
    ) -> list[Tensor]:
        """Values [slow, fast] of the panels' pixels, float64, ADU, of expected photons; image: its
        number."""
        counted = self._counted([one.detach().double().cpu() for one in expected], image)
        dead = self.response.dead_time_s
        photons = self._in_time(counted, dead / exposure_s if dead else 0.0)
        if self.spreads is not None:
            photons = [spread(one) for spread, one in zip(self.spreads, photons)]
        return self._digitized(self._with_zingers(photons, image), image)

    def _counted(self, expected: list[Tensor], image: int) -> list[Tensor]:
        response = self.response
        if response.flicker:
            random = noise.generator(response.seed, image, "flicker")
            expected = [
                one * (1 + response.flicker * noise.normal(one.shape, random)).clamp(min=0)
                for one in expected
            ]
        if self.sensitivity is not None:
            expected = [one * factor for one, factor in zip(expected, self.sensitivity)]
        return noise.poisson(expected, response.seed, image) if response.poisson else expected

    def _in_time(self, photons: list[Tensor], share: float) -> list[Tensor]:
        """Without those that come within the dead time of others; share: of the exposure."""
        if not share:
            return photons
        if self.response.dead_time_model == "paralyzable":
            return [one * torch.exp(-share * one) for one in photons]
        return [one / (1 + share * one) for one in photons]

    def _with_zingers(self, photons: list[Tensor], image: int) -> list[Tensor]:
        """With events that are no photons of the crystal's: of cosmic rays, of decays."""
        response = self.response
        if not response.zingers:
            return photons
        random = noise.generator(response.seed, image, "zingers")
        sizes = [one.numel() for one in photons]
        expected = torch.tensor(response.zingers, dtype=torch.float64)
        count = int(torch.poisson(expected, random))
        draws = torch.rand(2, count, generator=random, dtype=torch.float64)
        where = (draws[0] * sum(sizes)).long()
        signal = -response.zinger_photons * torch.log1p(-draws[1])
        flat = torch.cat([one.flatten() for one in photons]).index_add_(0, where, signal)
        return [part.reshape(shape) for part, shape in zip(flat.split(sizes), self.shapes)]

    def _digitized(self, photons: list[Tensor], image: int) -> list[Tensor]:
        response = self.response
        random = noise.generator(response.seed, image, "readout")
        values = []
        for panel, (one, gain, offset) in enumerate(zip(photons, self.gain, self.offset)):
            if self.bad is not None:
                one = one.masked_fill(self.bad[panel][0], 0.0)
            value = one * gain + offset
            if response.readout_noise_adu:
                value += response.readout_noise_adu * noise.normal(value.shape, random)
            if self.bad is not None:
                value = value.masked_fill(self.bad[panel][1], response.bad.hot_adu)
            value = value.round() if response.rounded else value
            values.append(value.clamp(max=response.saturation_adu))
        return values
