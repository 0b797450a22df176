"""What each pixel of an image sees: which reflection, at which resolution."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nanobragg_plugin.geometry import curve, lab_position, unit
from nanobragg_plugin.models import Experiment, Exposure
from nanobragg_plugin.orientation import incident, real_space_vectors


def pixel_maps(
    experiment: Experiment, panel: int, exposure: Exposure, wavelength: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The nearest reflection [slow, fast, 3] and the resolution d [slow, fast], Angstrom, of the
    middles of a panel's pixels: int16 and float64, in the middle of the exposure, of the crystal's
    mean orientation and the beam's mean direction.

    wavelength: Angstrom, [slow, fast] or []; by default the beam's mean, sources by their weights.
    """
    middle = [sum(values) / len(values) for values in (exposure.phi, exposure.position)]
    middle = Exposure((middle[0],), (middle[1],))
    beam, model = experiment.beam, experiment.panels[panel]
    directions, wavelengths = incident(beam, middle)
    weight = beam.weight / beam.weight.sum()
    s0_unit, _ = unit((directions[0] * weight[:, None]).sum(0))
    if wavelength is None:
        wavelength = (wavelengths[0] * weight).sum()
    slow, fast = (torch.arange(n, device=s0_unit.device).to(s0_unit) + 0.5 for n in model.shape)
    flat = lab_position(model, slow[:, None].expand(model.shape), fast.expand(model.shape))
    s1_unit, _ = unit(flat if model.curved is None else curve(model, flat))
    q = (s1_unit - s0_unit) / wavelength[..., None]
    crystal = experiment.crystal
    whole = torch.eye(3, dtype=crystal.umats.dtype, device=crystal.umats.device)[None]
    vectors = real_space_vectors(replace(crystal, umats=whole), experiment.goniometer, middle)
    hkl = torch.ceil(q @ vectors[0, 0].T - 0.5)
    return hkl.to(torch.int16), 1 / torch.linalg.vector_norm(q, dim=-1)
