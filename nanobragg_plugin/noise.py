"""Random numbers of images and of detectors, and counts drawn of expected photons."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def generator(seed: int, image: int | None, what: str = "") -> torch.Generator:
    """Random numbers of an image, which depend on (seed, image number) alone; of a detector where
    there is no image; what: each kind of noise has numbers of its own, so that one does not change
    with another."""
    words = "nanobragg noise", seed, "" if image is None else image, what
    digest = hashlib.sha256(" ".join(str(word) for word in words if word != "").encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def poisson(expected: list[Tensor], seed: int, image: int) -> list[Tensor]:
    """Counts [slow, fast] of the panels of an image, float64; drawn where the generator is, panel
    by panel, so that they do not depend on the device that the image was simulated on."""
    random = generator(seed, image)
    return [torch.poisson(panel.detach().double().to(random.device), random) for panel in expected]


def normal(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Deviates of a standard deviation of 1, float64."""
    return torch.randn(shape, generator=random, dtype=torch.float64)
