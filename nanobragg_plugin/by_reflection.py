"""Which reflection the photons of an image come from.

An image is linear in the F^2 of its reflections: the photons of one of them, summed over pixels
that are weighed with w, are F/2 times the derivative of sum(w image) with respect to its F (Euler's
theorem on homogeneous functions). So a backward pass gives them for all reflections, with every
sub-pixel, phi step, domain and source attributed as the image itself has it; w = 1 gives photons,
w = a pixel's coordinate their centroids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nanobragg_plugin import sampling
from nanobragg_plugin.cell import edges
from nanobragg_plugin.kernels.batches import panel_image, pixel_count
from nanobragg_plugin.models import Experiment, Exposure, SimulationOptions
from nanobragg_plugin.simulate import Simulator
from nanobragg_plugin.structure_factors import StructureFactors

#: Most indices of a box that has an element for every index in reach.
MAX_INDICES = 300_000_000


@dataclass(frozen=True)
class Photons:
    """Of one image, a row for each reflection and panel that it has photons on: hkl [n, 3]; panel
    [n]; photons [n]; fast, slow [n], pixels: their centroid (a pixel's centre is at +0.5)."""

    hkl: Tensor
    panel: Tensor
    photons: Tensor
    fast: Tensor
    slow: Tensor


def covering(sf: StructureFactors, reach: tuple[int, int, int]) -> StructureFactors:
    """The same amplitudes in a box that holds the indices up to -reach and +reach besides.

    Where the amplitudes end, a table has one element for all indices beyond. ValueError of a box
    of more than MAX_INDICES elements.
    """
    low = [min(first, -most) for first, most in zip(sf.hkl_min, reach)]
    last = [first + size - 3 for first, size in zip(sf.hkl_min, sf.Fhkl.shape)]
    sizes = [max(end, most) - first + 3 for end, most, first in zip(last, reach, low)]
    if sizes[0] * sizes[1] * sizes[2] > MAX_INDICES:
        raise ValueError(
            f"{' x '.join(map(str, sizes))} indices are in reach, too many to have photons each"
        )
    box = sf.Fhkl.new_full(sizes, sf.default_F)
    inner = [
        slice(first - begin + 1, end - begin + 2)
        for first, end, begin in zip(sf.hkl_min, last, low)
    ]
    if all(piece.stop > piece.start for piece in inner):
        box[tuple(inner)] = sf.Fhkl[1:-1, 1:-1, 1:-1]
    return StructureFactors(box, tuple(low), sf.default_F)


def reach_of(experiment: Experiment) -> tuple[int, int, int]:
    """The largest |h|, |k|, |l| that a detector's corners see, and one more."""
    q_max = sampling.q_max(experiment.panels, experiment.beam)
    longest = torch.stack([edges(a) for a in experiment.crystal.A]).amax(0)
    return tuple(int(edge * q_max) + 2 for edge in longest.tolist())


class ByReflection:
    """Photons of the spots in an experiment's images, reflection by reflection; images: how many
    there will be.

    ValueError where amplitudes are interpolated: photons belong to several reflections then.
    """

    def __init__(
        self,
        experiment: Experiment,
        structure_factors: StructureFactors,
        options: SimulationOptions | None = None,
        images: int = 1,
    ) -> None:
        sf = structure_factors
        if options is not None and options.interpolate:
            raise ValueError("photons between reflections, of interpolated amplitudes, are of none")
        if sf.default_F:
            sf = covering(sf, reach_of(experiment))
        self.table = StructureFactors(
            sf.Fhkl.detach().requires_grad_(True), sf.hkl_min, sf.default_F
        )
        self.simulator = Simulator(experiment, self.table, options, images)

    def of(
        self,
        exposure: Exposure,
        fluence: float | None = None,
        weights: list[Tensor] | None = None,
    ) -> Photons:
        """Of one image; weights: a factor on each pixel [slow, fast] a panel, as what a beam stop
        lets through."""
        kernel = self.simulator.ready(exposure, fluence)
        with torch.no_grad():
            left = self.simulator.spots_left(exposure)
        found = []
        for number, panel in enumerate(self.simulator.experiment.panels):
            if not pixel_count(panel):
                continue
            image = panel_image(kernel, number)
            if not image.requires_grad:  # nothing was evaluated
                continue
            weight = torch.ones_like(image)
            for factors in (weights, left):
                weight = weight if factors is None else weight * factors[number].to(image)
            found.append(self._of_panel(number, image, weight))
        return Photons(*(torch.cat(column) for column in zip(*found))) if found else _none()

    def _of_panel(self, number: int, image: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        amplitudes = self.table.Fhkl
        n_slow, n_fast = image.shape
        fast = (torch.arange(n_fast).to(image) + 0.5).expand(n_slow, -1)
        slow = (torch.arange(n_slow).to(image) + 0.5)[:, None].expand(-1, n_fast)
        sums = []
        for cotangent in (weight, weight * fast, weight * slow):
            (slope,) = torch.autograd.grad(image, amplitudes, cotangent, retain_graph=True)
            sums.append((amplitudes.detach() * slope / 2).double())
        places = torch.nonzero(sums[0] > 0)
        photons, fast_sum, slow_sum = (values[tuple(places.T)] for values in sums)
        hkl = places - 1 + torch.tensor(self.table.hkl_min, device=places.device)
        return (
            hkl,
            torch.full_like(hkl[:, 0], number),
            photons,
            fast_sum / photons,
            slow_sum / photons,
        )


def _none() -> Photons:
    nothing = torch.zeros(0, dtype=torch.float64)
    return Photons(nothing.new_zeros((0, 3), dtype=torch.int64), nothing.long(), *[nothing] * 3)
