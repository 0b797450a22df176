"""Expected photons of an image: the physics in order, one named step a line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nanobragg_plugin import background, damage
from nanobragg_plugin.background import Material
from nanobragg_plugin.curve import Curve
from nanobragg_plugin.kernels import amorphous, dense, diffuse
from nanobragg_plugin.kernels.batches import panel_image
from nanobragg_plugin.kernels.choice import Choice, choose
from nanobragg_plugin.kernels.prepared import Prepared
from nanobragg_plugin.models import Experiment, Exposure, SimulationOptions
from nanobragg_plugin.orientation import incident
from nanobragg_plugin.structure_factors import StructureFactors


class Simulator:
    """Images of one experiment: what they share is made once.

    images: how many there will be, which decides whether it pays to compile.
    """

    def __init__(
        self,
        experiment: Experiment,
        structure_factors: StructureFactors,
        options: SimulationOptions | None = None,
        images: int = 1,
    ) -> None:
        self.experiment, self.structure_factors = experiment, structure_factors
        self.options = SimulationOptions() if options is None else options
        self.images = images
        self.prepared = Prepared(experiment, structure_factors, self.options)
        self.choice: Choice | None = None
        self._around: dict[str, tuple[Any, list[Tensor]]] = {}

    def choose(self, exposure: Exposure, fluence: float | Tensor | None = None) -> Choice:
        """The kernel, chosen by the first exposure that it is asked for, or that is simulated."""
        return self._choice(self._kernel(exposure, fluence))

    def _choice(self, kernel: dense.Kernel, slopes: tuple[bool, bool] | None = None) -> Choice:
        if self.choice is None:
            self.choice = choose(kernel, self.images, slopes or kernel.slopes)
        return self.choice

    def image(
        self,
        exposure: Exposure,
        fluence: float | Tensor | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Tensor]:
        """Expected photons of one image, as `simulate`; fluence: photons/m^2 in place of the
        experiment's."""
        panels = range(len(self.experiment.panels))
        kernel = self.ready(exposure, fluence)
        images = [panel_image(kernel, panel, progress) for panel in panels]
        spots = self.spots_left(exposure)
        if spots is not None:
            images = [image * left.to(image) for image, left in zip(images, spots)]
        if self.experiment.crystal.diffuse is not None:
            images = [a + b.to(a) for a, b in zip(images, self._diffuse(exposure, fluence))]
        return images

    def spots_left(self, exposure: Exposure) -> list[Tensor] | None:
        """The part of the spots' photons [slow, fast] a panel that radiation damage and correlated
        displacements leave; None: all."""
        left = self._undamaged(exposure)
        if self.experiment.crystal.diffuse is None:
            return left
        panels = range(len(self.experiment.panels))
        still = [diffuse.spots_left(self.experiment, panel, exposure) for panel in panels]
        return still if left is None else [a * b for a, b in zip(left, still)]

    def _undamaged(self, exposure: Exposure) -> list[Tensor] | None:
        """The part of the crystal's photons that radiation damage leaves; None: all."""
        beam, damaged = self.experiment.beam, self.experiment.crystal.damage
        if damaged is None:
            return None

        def make() -> list[Tensor]:
            return [damage.stol_sqr(panel, beam, exposure) for panel in self.experiment.panels]

        known = make() if torch.is_grad_enabled() else self._made_once("stol", None, make)
        return [damage.part_left(damaged, exposure, stol_sqr) for stol_sqr in known]

    def _diffuse(self, exposure: Exposure, fluence: float | Tensor | None) -> list[Tensor]:
        """Expected photons [slow, fast] a panel of diffuse scattering."""
        experiment = self._lit(fluence)
        of = exposure, self.structure_factors.to(dtype=experiment.crystal.A.dtype), self.options
        panels = range(len(experiment.panels))
        images = [diffuse.scattered(experiment, panel, *of) for panel in panels]
        left = self._undamaged(exposure)
        return images if left is None else [a * b for a, b in zip(images, left)]

    @torch.no_grad()
    def scattered(self, exposure: Exposure, materials: tuple[Material, ...]) -> list[Tensor]:
        """Expected photons that materials in the beam scatter, [slow, fast] a panel, of one photon
        of the beam; made once where the beam stays."""

        def make() -> list[Tensor]:
            panels = range(len(self.experiment.panels))
            of = exposure, materials, self.options
            return [amorphous.scattered(self.experiment, panel, *of) for panel in panels]

        return self._made_once("scattered", materials, make)

    @torch.no_grad()
    def measured(self, exposure: Exposure, profile: Curve) -> list[Tensor]:
        """Photons of a measured profile, [slow, fast] a panel; made once where the beam stays."""

        def make() -> list[Tensor]:
            of = exposure, profile, self.options
            panels = range(len(self.experiment.panels))
            return [amorphous.measured(self.experiment, panel, *of) for panel in panels]

        return self._made_once("measured", profile, make)

    @torch.no_grad()
    def past_stop(self, exposure: Exposure, two_theta: float) -> list[Tensor]:
        """`background.beyond` of every panel; made once where the beam stays."""

        def make() -> list[Tensor]:
            s0_unit = incident(self.experiment.beam, exposure)[0].mean((0, 1))
            return [background.beyond(one, s0_unit, two_theta) for one in self.experiment.panels]

        return self._made_once("past stop", two_theta, make)

    def _made_once(self, name: str, of: Any, make: Callable[[], list[Tensor]]) -> list[Tensor]:
        beam = self.experiment.beam
        stays = len(beam.direction) == len(beam.wavelength) == 1
        if not stays or name not in self._around or self._around[name][0] is not of:
            self._around[name] = of, make()
        return self._around[name][1]

    def ready(
        self,
        exposure: Exposure,
        fluence: float | Tensor | None = None,
        slopes: tuple[bool, bool] | None = None,
    ) -> dense.Kernel:
        """The kernel of an image; slopes: for which derivatives, if not for those that its tensors
        require."""
        kernel = self._kernel(exposure, fluence)
        choice = self._choice(kernel, slopes)
        kernel.compiled = choice.compiled
        if choice.kernel == "sparse":
            kernel.bound = kernel.make_bound(choice.compiled)
        if self.images > 1 and not kernel.rays_vary:
            kernel.keep_rays()
        return kernel

    def _kernel(self, exposure: Exposure, fluence: float | Tensor | None) -> dense.Kernel:
        return dense.Kernel(
            self._lit(fluence), exposure, self.structure_factors, self.options, self.prepared
        )

    def _lit(self, fluence: float | Tensor | None) -> Experiment:
        """The experiment with another fluence, if one is given."""
        experiment = self.experiment
        if fluence is None:
            return experiment
        like = experiment.beam.fluence
        fluence = torch.as_tensor(fluence, dtype=like.dtype, device=like.device)
        return replace(experiment, beam=replace(experiment.beam, fluence=fluence))


def simulate(
    experiment: Experiment,
    exposure: Exposure,
    structure_factors: StructureFactors,
    options: SimulationOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """Expected photons of one image, of the crystal and `water_c_um`: [slow, fast] a panel, 0 where
    masked.

    Differentiable in every tensor of the experiment and in the structure factors; the memory
    is bounded by `options.batch_steps`, in the backward pass too, which evaluates each batch
    again. progress is called with the number of pixels of each batch that is done, from any thread.
    """
    return Simulator(experiment, structure_factors, options).image(exposure, progress=progress)


def simulate_panel(
    experiment: Experiment,
    panel: int,
    exposure: Exposure,
    structure_factors: StructureFactors,
    options: SimulationOptions,
) -> Tensor:
    """`simulate` of one panel, [slow, fast]."""
    alone = replace(experiment, panels=(experiment.panels[panel],))
    options = replace(options, layers=(options.layers_of(panel),))
    return simulate(alone, exposure, structure_factors, options)[0]
