"""How likely counts are: losses (twice the negative logarithm of the likelihood, but for a
constant), their slopes, and the information they hold (Fisher's)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Photons expected of a pixel below which the loss is a parabola, that keeps them from falling far
#: below 0, where a linear background may take them.
FLOOR = 0.01
ROBUST = ("none", "huber", "tukey")


@dataclass(frozen=True)
class Terms:
    """Of every pixel [n]: loss; score, -1/2 d loss/d expected; information, the expected second
    derivative of loss/2; chi_sqr, the squared residual over its variance."""

    loss: Tensor
    score: Tensor
    information: Tensor
    chi_sqr: Tensor


@dataclass(frozen=True)
class Noise:
    """readout: None, photons are counted (Poisson), or the rms of a detector's readout, photons
    (Gauss, of variance expected + readout^2); robust: what limits pixels that are more than
    `threshold` sigma off: Huber's loss grows linearly, Tukey's not at all."""

    readout: float | None = None
    robust: str = "none"
    threshold: float = 6.0

    def __post_init__(self) -> None:
        if self.robust not in ROBUST:
            raise ValueError(f"robust {self.robust!r} is none of {', '.join(ROBUST)}")
        if not self.threshold > 0 or (self.readout is not None and self.readout < 0):
            raise ValueError("threshold must be above 0, readout not below")

    def terms(self, counts: Tensor, expected: Tensor) -> Terms:
        """Of counts [n], photons, where [n] were expected."""
        low = expected < FLOOR
        mu = expected.clamp(min=FLOOR)
        variance = mu if self.readout is None else mu + self.readout**2
        residual = counts - mu
        chi_sqr = residual**2 / variance
        if self.readout is None:
            # scattered light is never negative, but what is left of a pedestal may be
            n = counts.clamp(min=0)
            loss = 2 * (mu - n + torch.xlogy(n, n) - torch.xlogy(n, mu))
            score, information = (n - mu) / mu, 1 / mu
            spread = torch.zeros_like(mu)
        else:
            # the logarithm of the variance is no part of what robust limits
            loss, spread = chi_sqr, variance.log()
            score = residual / variance + chi_sqr / (2 * variance)
            information = 1 / variance + 1 / (2 * variance**2)
        loss, weight = self._limited(loss)
        score, information = weight * score, weight * information
        if self.readout is not None:
            score = score - 1 / (2 * variance)
        below = torch.where(low, expected - mu, torch.zeros_like(mu))
        curvature = (counts.clamp(min=0) / mu + 1) / variance
        loss = loss + spread - 2 * score * below + curvature * below**2
        return Terms(loss, score - curvature * below, information, chi_sqr)

    def _limited(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Of the squared residuals [n] what counts, and the slope of it."""
        if self.robust == "none":
            return loss, torch.ones_like(loss)
        k, size = self.threshold, loss.clamp(min=0).sqrt()
        far = size > k
        if self.robust == "huber":
            weight = torch.where(far, k / size.clamp(min=k), torch.ones_like(size))
            return torch.where(far, 2 * k * size - k * k, loss), weight
        left = torch.where(far, torch.zeros_like(size), 1 - (size / k) ** 2)
        return k * k / 3 * (1 - left**3), left**2
