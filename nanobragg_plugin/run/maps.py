"""Maps beside the pixels: what each of them sees, image by image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from nanobragg_plugin.adapters.params import Part, Plan
from nanobragg_plugin.maps import pixel_maps
from nanobragg_plugin.run.images import Images, simulator_of
from nanobragg_plugin.simulate import Simulator

#: What a pixel must have of what the sparse kernel may leave out, for its wavelength to be told.
TOLERANCES = 100.0


class Maps:
    """Of the images of one file. names: of the maps there will be; hkl and resolution, of several
    crystals hkl_2 ... too, and wavelength where there are several."""

    def __init__(self, images: Images) -> None:
        self.images = images
        plan = images.plans[0]
        count = len(images.plans)
        self.names = ["hkl", *(f"hkl_{i + 1}" for i in range(1, count)), "resolution"]
        self._several = len(torch.cat([p.experiment.beam.wavelength[0] for p in plan.parts])) > 1
        if self._several:
            self.names.append("wavelength")
        self._kept: Plan | None = None
        self._weighed: list[Simulator] = []

    def of(self, index: int) -> dict[str, list[np.ndarray]]:
        """Arrays [slow, fast] a panel of image `index`, from 0: hkl int16 [slow, fast, 3]; d and
        the mean wavelength of the photons, Angstrom, float32, 0 where there are too few."""
        plans, own = self.images.plans_of(index)
        panels = range(len(plans[0].experiment.panels))
        wavelengths = self._wavelengths(index, plans[0], own) if self._several else None
        result: dict[str, list[np.ndarray]] = {name: [] for name in self.names}
        names = [name for name in self.names if name.startswith("hkl")]
        for name, plan in zip(names, plans):
            for panel in panels:
                seen = None
                if wavelengths is not None:
                    mean = _mean_wavelength(*plan.parts)
                    seen = torch.where(wavelengths[panel] > 0, wavelengths[panel], mean)
                hkl, d = pixel_maps(plan.experiment, panel, plan.exposure(own), seen)
                result[name].append(hkl.cpu().numpy())
                if name == "hkl":
                    result["resolution"].append(d.cpu().numpy().astype(np.float32))
        if wavelengths is not None:
            result["wavelength"] = [one.cpu().numpy().astype(np.float32) for one in wavelengths]
        return result

    @torch.no_grad()
    def _wavelengths(self, index: int, plan: Plan, own: int) -> list[Tensor]:
        """The mean wavelength of the first crystal's photons in each pixel: images are linear in
        the sources' weights, of which those of a second image are times the wavelength."""
        if plan is not self._kept:
            self._kept = plan
            self._weighed = [simulator_of(_weighed(part), plan) for part in plan.parts]
        exposure, top, bottom = plan.exposure(own), [], []
        for part, weighed, plain in zip(
            plan.parts, self._weighed, self.images.simulators_of(index)[0]
        ):
            fluence = float(part.experiment.beam.fluence) * plan.fluences[own]
            below = plain.image(exposure, fluence)
            # weights are normalized: what they are times the wavelength is lost
            above = weighed.image(exposure, fluence * _mean_wavelength(part))
            top = [a + b for a, b in zip(top, above)] if top else above
            bottom = [a + b for a, b in zip(bottom, below)] if bottom else below
        least = TOLERANCES * plan.options.tolerance
        return [torch.where(b > least, a / b, 0.0) for a, b in zip(top, bottom)]


def _weighed(part: Part) -> Part:
    """A part whose sources' weights are times their wavelengths, Angstrom."""
    beam = part.experiment.beam
    beam = replace(beam, weight=beam.weight * beam.wavelength.mean(0))
    return replace(part, experiment=replace(part.experiment, beam=beam))


def _mean_wavelength(*parts: Part) -> Tensor:
    """Of all photons of the beam, Angstrom."""
    beams = [part.experiment.beam for part in parts]
    shares = torch.cat([beam.fluence * beam.weight / beam.weight.sum() for beam in beams])
    return (torch.cat([beam.wavelength.mean(0) for beam in beams]) * shares).sum() / shares.sum()
