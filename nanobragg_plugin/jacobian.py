"""The derivatives of an image with respect to a few parameters, by forward mode, all at once.

What does not depend on pixels is differentiated by torch's dual numbers, once for each parameter.
The sum over terms, where the time goes, is made once for all of them (`kernels.tangents`). The
places of pixels, and what weighs these sums, are differentiated for those parameters alone that
move them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd import forward_ad

from nanobragg_plugin.constants import R_E_SQR
from nanobragg_plugin.kernels import dense, tangents
from nanobragg_plugin.kernels.batches import evaluated_batches, place
from nanobragg_plugin.kernels.choice import Choice
from nanobragg_plugin.kernels.incidence import Incidence
from nanobragg_plugin.kernels.prepared import Rough
from nanobragg_plugin.models import (
    Experiment,
    Exposure,
    Panel,
    SimulationOptions,
    changed_tensors,
    tensors_of,
)
from nanobragg_plugin.simulate import Simulator, simulate
from nanobragg_plugin.structure_factors import StructureFactors, constant

Models = Callable[[Tensor], "tuple[Experiment, StructureFactors]"]


@torch.no_grad()
def jacobian(
    models: Models,
    parameters: Tensor,
    exposure: Exposure,
    options: SimulationOptions | None = None,
    flat: bool = False,
    choices: dict[str, Choice] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Expected photons of an image as `simulate.simulate`, [slow, fast] a panel, and their
    derivatives [p, slow, fast] with respect to parameters [p]; flat: [n] and [p, n] of the pixels
    that a panel's mask lets through, in raster order. choices: where the choice of a kernel is kept
    from call to call of much the same image, which takes seconds; None: nowhere.

    models makes the experiment and the structure factors of parameters, by operations of torch
    that have forward derivatives. It is called several times for each parameter. ValueError unless
    parameters has one dimension and is not empty.
    """
    if parameters.ndim != 1 or len(parameters) == 0:
        shape = list(parameters.shape)
        raise ValueError(f"parameters must be of shape [p], one at least, not {shape}")
    options = SimulationOptions() if options is None else options
    problem = _Problem(models, parameters.detach(), exposure, options, flat)
    problem.choices = {} if choices is None else choices
    return problem.at_once() if problem.may_be_at_once else problem.one_by_one()


@dataclass(frozen=True)
class _Effect:
    """Whether a parameter moves pixels or changes what weighs them; whether it turns a beam; and
    what r_e^2 fluence spot_scale changes by [] with it."""

    moves: bool
    turns: bool
    scale: Tensor


class _Problem:
    choices: dict[str, Choice]

    def __init__(
        self,
        models: Models,
        parameters: Tensor,
        exposure: Exposure,
        options: SimulationOptions,
        flat: bool = False,
    ) -> None:
        self.models, self.parameters = models, parameters
        self.exposure, self.options, self.flat = exposure, options, flat
        self.experiment, self.structure_factors = models(parameters)
        self.numbers = range(len(parameters))
        self.panels = range(len(self.experiment.panels))

    @contextmanager
    def changed(self, number: int) -> Iterator[tuple[Experiment, StructureFactors]]:
        """The models in dual numbers, whose tangents are the derivatives of one parameter."""
        direction = torch.zeros_like(self.parameters)
        direction[number] = 1
        with forward_ad.dual_level():
            yield self.models(forward_ad.make_dual(self.parameters, direction))

    @property
    def may_be_at_once(self) -> bool:
        """Whether `at_once` knows how: not for what is there to compare with nanoBragg.c, nor for
        radiation damage and diffuse scattering."""
        options, crystal = self.options, self.experiment.crystal
        kernel = dense.Kernel(self.experiment, self.exposure, constant(0.0), options)
        spec = options.phi_carryover_mode == "spec" or not any(kernel.zero)
        whole = crystal.damage is None and crystal.diffuse is None
        plain = kernel.has_slopes and options.water_c_um == 0 and whole
        return spec and plain and float(crystal.spot_scale) != 0

    # ---- one by one

    def one_by_one(self) -> tuple[list[Tensor], list[Tensor]]:
        """All operations in dual numbers, for each parameter anew."""
        images = simulate(self.experiment, self.exposure, self.structure_factors, self.options)
        columns: list[list[Tensor]] = []
        for number in self.numbers:
            with self.changed(number) as models:
                options = replace(self.options, compile="never")
                found = simulate(models[0], self.exposure, models[1], options)
                columns.append(self._picked([_tangent(image) for image in found]))
        return self._picked(images), [
            torch.stack([column[panel] for column in columns]) for panel in self.panels
        ]

    def _picked(self, images: list[Tensor]) -> list[Tensor]:
        """Images as they were asked for."""
        panels = self.experiment.panels
        return [self._pick(panel, image) for panel, image in zip(panels, images)]

    def _pick(self, panel: Panel, image: Tensor) -> Tensor:
        if not self.flat:
            return image
        return image.flatten() if panel.mask is None else image[panel.mask]

    # ---- at once

    def at_once(self) -> tuple[list[Tensor], list[Tensor]]:
        """One sum over terms, of which the derivatives are made with it."""
        simulator = Simulator(self.experiment, self.structure_factors, self.options)
        simulator.choice = self.choices.get("jacobian")
        given = self.given
        some = next(iter(given.values()))
        slopes = some.everything, some.squares is not None
        kernel = simulator.ready(self.exposure, slopes=slopes)
        self.choices["jacobian"] = simulator.choice
        kernel.apart = self.apart
        found = [self._panel(kernel, panel) for panel in self.panels]
        return [image for image, _ in found], [columns for _, columns in found]

    @cached_property
    def effects(self) -> list[_Effect]:
        """Of each parameter."""
        found = []
        for number in self.numbers:
            with self.changed(number) as (experiment, _):
                beam = experiment.beam
                moves = any(_changes(one) for one in tensors_of(*_of_rays(experiment)))
                scale = _tangent(R_E_SQR * beam.fluence * experiment.crystal.spot_scale)
                found.append(_Effect(moves, _changes(beam.direction), scale))
        return found

    @property
    def apart(self) -> bool:
        """Whether some parameter turns a beam, and so perhaps not all that have its direction."""
        return any(effect.turns for effect in self.effects)

    @cached_property
    def given(self) -> dict[tuple, tangents.Tangents]:
        """Of each Incidence what its sum's inputs change by, by `_key`."""
        parts: dict[tuple, list[tangents.Tangents]] = {}
        apart = self.apart
        for number in self.numbers:
            with self.changed(number) as (experiment, structure_factors):
                kernel = dense.Kernel(experiment, self.exposure, structure_factors, self.options)
                kernel.apart = apart
                scatterer = kernel.scatterer
                shape = scatterer.squares, scatterer.ncells, scatterer.fudge
                squares, ncells, fudge = map(_change_of, shape)
                for incidence in kernel.incidences():
                    terms = kernel.known.terms(incidence, kernel.abc)
                    maps, weight = _change_of(terms.maps), _change_of(terms.weight)
                    made = tangents.Tangents(maps, weight, squares, ncells, fudge)
                    parts.setdefault(_key(incidence), []).append(made)
        return {key: tangents.stacked(some) for key, some in parts.items()}

    def _panel(self, kernel: dense.Kernel, panel: int) -> tuple[Tensor, Tensor]:
        model = self.experiment.panels[panel]
        batches, _, _ = evaluated_batches(kernel, panel, 1)  # each is shared out by itself
        pixels = torch.cat(batches)
        sums = [self._batch(kernel, panel, batch) for batch in batches if len(batch)]
        found = torch.cat(sums, 1) if sums else kernel.abc.new_zeros(1 + len(self.numbers), 0)
        scale = (R_E_SQR * self.experiment.beam.fluence).to(found)
        changes = torch.stack([effect.scale for effect in self.effects])
        change = (changes / self.experiment.crystal.spot_scale).to(found)

        def placed(values: Tensor) -> Tensor:
            return self._pick(model, place(model, pixels, values))

        columns = [
            placed(scale * found[1 + number] + change[number] * found[0]) for number in self.numbers
        ]
        return placed(scale * found[0]), torch.stack(columns)

    def _batch(self, kernel: dense.Kernel, panel: int, pixels: Tensor) -> Tensor:
        """The kernel's sums of pixels, and what they change by [1 + p, n], the scale apart."""
        recorded: list[tangents.Along] = []
        moving = [number for number in self.numbers if self.effects[number].moves]

        def record(
            kernel: dense.Kernel, s1: Tensor, incidence: Incidence, rough: Rough | None
        ) -> Tensor:
            lattice = kernel.lattice_of(incidence, kernel.abc, rough)
            given = self.given[_key(incidence)]
            recorded.append(tangents.of_sum(lattice, s1, given, len(moving) > 0))
            return torch.cat([recorded[-1].value[None], recorded[-1].tangents])

        kernel.instead = record
        found, _ = kernel(panel, pixels)
        for number in moving:
            found[1 + number] += self._of_rays(panel, pixels, number, recorded)
        return found

    def _of_rays(
        self, panel: int, pixels: Tensor, number: int, recorded: list[tangents.Along]
    ) -> Tensor:
        """What the sums [n] change by as the pixels move, and what weighs them changes."""
        sums = iter(recorded)

        def play(
            kernel: dense.Kernel, s1: Tensor, incidence: Incidence, rough: Rough | None
        ) -> Tensor:
            along = next(sums)
            return forward_ad.make_dual(along.value, (along.slope * _tangent(s1)).sum(0))

        apart = self.apart
        with self.changed(number) as (changed, _):
            # tangents of zero, where there are none, are many times as fast as torch's own way to
            # leave them out
            panels, direction, *rest = _of_rays(changed)
            panels, kahn_factor, axis = changed_tensors((panels, *rest), _with_tangent)
            polarized = {"kahn_factor": kahn_factor, "polarization_axis": axis}
            beam = replace(self.experiment.beam, direction=direction, **polarized)
            experiment = replace(self.experiment, panels=panels, beam=beam)
            layers = changed_tensors(self.options.layers, _with_tangent)
            options = replace(self.options, layers=layers)
            kernel = dense.Kernel(experiment, self.exposure, constant(0.0), options)
            kernel.apart, kernel.instead = apart, play
            return _tangent(kernel(panel, pixels)[0])


def _of_rays(experiment: Experiment) -> tuple:
    """What places and weighs the pixels."""
    beam = experiment.beam
    return experiment.panels, beam.direction, beam.kahn_factor, beam.polarization_axis


def _key(incidence: Incidence) -> tuple:
    return incidence.sources, incidence.step


def _tangent(dual: Tensor) -> Tensor:
    """What a dual number changes by."""
    primal, tangent = forward_ad.unpack_dual(dual)
    return torch.zeros_like(primal) if tangent is None else tangent.clone()


def _with_tangent(tensor: Tensor) -> Tensor:
    """A dual number."""
    if not tensor.is_floating_point() or forward_ad.unpack_dual(tensor).tangent is not None:
        return tensor
    return forward_ad.make_dual(tensor, torch.zeros_like(tensor))


def _changes(dual: Tensor) -> bool:
    tangent = forward_ad.unpack_dual(dual).tangent
    return tangent is not None and bool(tangent.any())


def _change_of(dual: Tensor) -> Tensor | None:
    """None of what does not change."""
    return _tangent(dual) if _changes(dual) else None
