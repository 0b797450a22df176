"""What scatters beside the crystal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nanobragg_plugin.constants import R_E_SQR
from nanobragg_plugin.curve import Curve, squared
from nanobragg_plugin.geometry import dot, lab_position, unit
from nanobragg_plugin.models import Panel

#: Of nanoBragg.c's water: its forward-scattered structure factor, electrons (`water_F`), its
#: molecular weight, g/mol (`water_MW`), and molecules a mole (`Avogadro`, CODATA 2006).
WATER_F, WATER_MW, AVOGADRO = 2.57, 18.0, 6.02214179e23


@dataclass(frozen=True)
class Material:
    """What lies in the beam: stol [n], 1/Angstrom, rising, and f [n], electrons: amplitude of a
    molecule by sin(theta)/lambda; per_area []: molecules/m^2 that the beam passes; along_mm [m],
    share [m]: where they are, from the crystal along the beam, and how many of them there."""

    stol: Tensor
    f: Tensor
    per_area: Tensor
    along_mm: Tensor
    share: Tensor

    @cached_property
    def f_squared(self) -> Curve:
        """F^2, F linear between the points, beyond the ends as there."""
        return squared(self.stol, self.f)


@dataclass(frozen=True)
class Measured:
    """Background as it was measured, the same in every image. profile: photons/sr; images: photons
    [slow, fast] of each panel's pixels; None: there is none."""

    profile: Curve | None = None
    images: tuple[Tensor, ...] | None = None


def molecules(thickness_mm: float, density_g_cm3: float, molecular_weight: float) -> float:
    """Molecules/m^2 of a thickness of density and g/mol."""
    return thickness_mm * 1e-3 * density_g_cm3 * 1e6 * AVOGADRO / molecular_weight


def flat(panel: Panel, level: float) -> Tensor:
    """Expected background photons [slow, fast]: `level` in every pixel that is simulated."""
    origin = panel.origin
    return unmasked(panel, torch.full(panel.shape, level, dtype=origin.dtype, device=origin.device))


def unmasked(panel: Panel, image: Tensor) -> Tensor:
    """The image [slow, fast], 0 where it is not simulated."""
    return image if panel.mask is None else image * panel.mask.to(image)


def beyond(panel: Panel, s0_unit: Tensor, two_theta: float) -> Tensor:
    """Which pixels [slow, fast], by their middles, are seen from the crystal at more than an angle
    (radians, less than pi/2) from the beam s0 [3]: past a round beam stop's shadow."""
    slow, fast = (torch.arange(n, device=panel.origin.device) + 0.5 for n in panel.shape)
    position = lab_position(panel, slow[:, None].expand(panel.shape), fast.expand(panel.shape))
    s1_unit, _ = unit(position.to(panel.origin.dtype))
    return dot(s1_unit, s0_unit.to(s1_unit)) < math.cos(two_theta)


def water_c(micrometres: float, fluence: Tensor) -> Tensor:
    """What a pixel's sum starts from with nanoBragg.c's -water: F^2 r_e^2 fluence N_molecules, of
    a cube of water of that edge at 1 g/cm^3 (nanoBragg.c, `I_bg`); fluence photons/m^2.

    Not physical: as the sum it starts is divided by the number of steps and multiplied by
    r_e^2 fluence once more. To compare with nanoBragg.c's images.
    """
    molecules = (micrometres * 1e-6) ** 3 * 1e6 * AVOGADRO / WATER_MW
    return WATER_F**2 * R_E_SQR * fluence * molecules
