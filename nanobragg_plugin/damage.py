"""Radiation damage: what is left of the spots as the scan goes on."""

from __future__ import annotations

import torch
from torch import Tensor

from nanobragg_plugin.geometry import curve, lab_position, unit
from nanobragg_plugin.models import Beam, Damage, Exposure, Panel
from nanobragg_plugin.orientation import incident


def stol_sqr(panel: Panel, beam: Beam, exposure: Exposure) -> Tensor:
    """(sin theta/lambda)^2, 1/Angstrom^2, at the middle of each pixel [slow, fast] of a panel, of
    the beam's mean direction and wavelength, sources by their weights."""
    directions, wavelengths = incident(beam, exposure)
    weight = beam.weight / beam.weight.sum()
    s0_unit, _ = unit((directions.mean(0) * weight[:, None]).sum(0))
    wavelength = (wavelengths.mean(0) * weight).sum()
    like = panel.origin
    slow, fast = (torch.arange(n, device=like.device).to(like) + 0.5 for n in panel.shape)
    flat = lab_position(panel, slow[:, None].expand(panel.shape), fast.expand(panel.shape))
    s1_unit, _ = unit(flat if panel.curved is None else curve(panel, flat))
    return ((s1_unit - s0_unit) ** 2).sum(-1) / (2 * wavelength) ** 2


def part_left(damage: Damage, exposure: Exposure, stol_sqr: Tensor) -> Tensor:
    """What is left of intensities at (sin theta/lambda)^2 [...] in an image: of an undamaged
    crystal's

        exp(-loss n) exp(-2 B n stol^2),

    n images after the scan's first began, at the middle of this one; B is the increase of the
    Debye-Waller factor's B an image, which grows linearly with dose: by about 1 Angstrom^2/MGy at
    100 K (Kmetko et al. 2006, Acta Cryst. D62, 1030). exp(-2 B n stol^2) = exp(-B n/(2 d^2)): the
    relative B of dials.scale's decay is -B n.
    """
    n = damage.first + sum(exposure.position) / len(exposure.position)
    loss = damage.loss_per_image + 2 * damage.b_per_image * stol_sqr
    return torch.exp(-n * loss)
