"""What scatters beside the crystal."""

from __future__ import annotations

import torch
from torch import Tensor

from nanobragg_plugin.constants import R_E_SQR
from nanobragg_plugin.models import Panel

#: Of nanoBragg.c's water: its forward-scattered structure factor, electrons (`water_F`), its
#: molecular weight, g/mol (`water_MW`), and molecules a mole (`Avogadro`, CODATA 2006).
WATER_F, WATER_MW, AVOGADRO = 2.57, 18.0, 6.02214179e23


def flat(panel: Panel, level: float) -> Tensor:
    """Expected background photons [slow, fast]: `level` in every pixel that is simulated."""
    origin = panel.origin
    image = torch.full(panel.shape, level, dtype=origin.dtype, device=origin.device)
    return image if panel.mask is None else image * panel.mask.to(image)


def water_c(micrometres: float, fluence: Tensor) -> Tensor:
    """What a pixel's sum starts from with nanoBragg.c's -water: F^2 r_e^2 fluence N_molecules, of
    a cube of water of that edge at 1 g/cm^3 (nanoBragg.c, `I_bg`); fluence photons/m^2.

    Not physical: as the sum it starts is divided by the number of steps and multiplied by
    r_e^2 fluence once more. To compare with nanoBragg.c's images.
    """
    molecules = (micrometres * 1e-6) ** 3 * 1e6 * AVOGADRO / WATER_MW
    return WATER_F**2 * R_E_SQR * fluence * molecules
