"""What scatters beside the crystal."""

from __future__ import annotations

import torch
from torch import Tensor

from nanobragg_plugin.models import Panel


def flat(panel: Panel, level: float) -> Tensor:
    """Expected background photons [slow, fast]: `level` in every pixel that is simulated."""
    origin = panel.origin
    image = torch.full(panel.shape, level, dtype=origin.dtype, device=origin.device)
    return image if panel.mask is None else image * panel.mask.to(image)
