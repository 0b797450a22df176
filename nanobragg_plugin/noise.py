"""From expected photons to counts."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def generator(seed: int, image: int) -> torch.Generator:
    """Random numbers of an image, which depend on (seed, image number) alone."""
    digest = hashlib.sha256(f"nanobragg noise {seed} {image}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def poisson(expected: list[Tensor], seed: int, image: int) -> list[Tensor]:
    """Counts [slow, fast] of the panels of an image, float64; drawn where the generator is, panel
    by panel, so that they do not depend on the device that the image was simulated on."""
    random = generator(seed, image)
    return [torch.poisson(panel.detach().double().to(random.device), random) for panel in expected]
