"""The dense kernel: every sample of every pixel, in batches of torch operations.

A sample is a sub-pixel in a sensor layer; from each the lattice is summed over terms (phi steps,
mosaic domains and sources, `lattice_sum`) and weighed by what does not depend on them: solid
angle, capture, polarization. Samples are summed layers outermost, as nanoBragg.c does, so that
a pixel's steps are always summed alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Union

import torch
from torch import Tensor

from nanobragg_plugin import background, carryover
from nanobragg_plugin.constants import R_E_SQR
from nanobragg_plugin.corrections import polarization
from nanobragg_plugin.geometry import pixel_numbers, scattering_vector
from nanobragg_plugin.kernels import blocks, compiled, derivatives, explain, sparse, summing
from nanobragg_plugin.kernels.incidence import Incidence, incidences
from nanobragg_plugin.kernels.known import KnownTerms
from nanobragg_plugin.kernels.lattice_sum import Scatterer, is_dual
from nanobragg_plugin.kernels.prepared import Prepared, Rays, Rough, joined
from nanobragg_plugin.kernels.samples import Sample, captured_once, layer_count, weighted_samples
from nanobragg_plugin.kernels.tree import Tree
from nanobragg_plugin.models import Experiment, Exposure, SimulationOptions, tensors_of
from nanobragg_plugin.orientation import at_positions, incident, real_space_vectors
from nanobragg_plugin.structure_factors import StructureFactors

#: Of a panel's pixels: (slow, fast) [n, 2]; numbers [n]; a run of all.
Pixels = Union[Tensor, slice]


class Kernel:
    """Sums of one image: made once, called for batches of pixels.

    Arguments as `kernels.reference.Kernel`, its slow twin; prepared: what the images of a sweep
    share. `watch` is given a name and the tensors of each step of a sum, as they go into it (for
    `trace`).
    """

    watch: Callable[[str, dict[str, Any]], None] | None = None
    #: In place of the sum over terms: of the kernel, s1_unit [3, n], Incidence and these points as
    #: the bound takes them what is weighed and added up, [n] or [m, n] (for `jacobian`).
    instead: Callable[[Kernel, Tensor, Incidence, Rough | None], Tensor] | None = None
    #: Whether each source is summed over alone, though others come from the same direction.
    apart: bool = False

    def __init__(
        self,
        experiment: Experiment,
        exposure: Exposure,
        structure_factors: StructureFactors,
        options: SimulationOptions,
        prepared: Prepared | None = None,
    ) -> None:
        index, value = options.index_dtype, options.value_dtype
        crystal, beam = experiment.crystal, experiment.beam
        self.experiment, self.options = experiment, options
        self.prepared = prepared or Prepared(experiment, structure_factors, options)
        self.abc = real_space_vectors(crystal, experiment.goniometer, exposure).to(index)
        self.zero = carryover.is_zero(exposure.phi)
        directions, wavelengths = incident(beam, exposure)
        self.incident, self.wavelengths = directions.to(index), wavelengths.to(index)
        self.weight = (beam.weight / beam.weight.mean()).to(value)
        # of the crystal's middle position: only the `_star` shapes use it, whose factor is
        # that of the unrotated cell in nanoBragg.c too
        position = torch.tensor(exposure.position, dtype=torch.float64, device=self.abc.device)
        a_matrix = at_positions(crystal.A, position.mean()[None])[0]
        metric = (a_matrix.T @ a_matrix).to(index)
        self.scatterer = self.prepared.scatterer(crystal, metric)
        self.ncells, self.fudge = self.scatterer.ncells, self.scatterer.fudge
        self.spot_scale = crystal.spot_scale.to(index)
        self.water = background.water_c(options.water_c_um, beam.fluence).to(index)
        self.photons = float((R_E_SQR * beam.fluence * crystal.spot_scale).detach())
        self.bound: sparse.Bound | None = None
        self.compiled = False
        self.known = KnownTerms()
        self._known_stale: tuple[Tensor, Tensor] | None = None

    def __call__(
        self,
        panel: int,
        pixels: Pixels,
        cache: carryover.PhiCache | None = None,
        remembered: derivatives.Remembered | None = None,
    ) -> tuple[Tensor, carryover.PhiCache | None]:
        """Sum over the samples of pixels [n, 2] (slow, fast) in raster order, [n]; or, of a panel
        whose rays are kept, of a run of all its pixels or of those of some numbers [n].

        spot_scale F_cell^2 F_latt^2 with every correction factor and weight, and nanoBragg.c's
        water, divided by the number of steps; times r_e^2 fluence it is expected photons. With a
        cache the phi carryover of nanoBragg.c is emulated, and the cache after these pixels
        returned: still empty if d_min leaves out all of their samples. remembered: the sums over
        terms of these pixels, empty at first.
        """
        if remembered is not None:
            remembered.begin()
        if cache is None:
            return self._sum(panel, pixels, self.abc, self.abc, remembered), None
        slow, fast = pixels.unbind(-1)
        if cache.valid:
            stale = self._stale_of(cache, slow, fast)
            return self._sum(panel, pixels, stale, stale, remembered), carryover.store_phi_final(
                cache, slow, fast, stale[-1]
            )
        # the run's first sample alone has no predecessor
        first = carryover.stale_steps(self.abc, self.zero, self.abc[0])
        stale = carryover.stale_steps(self.abc, self.zero, first[-1])
        opening = self._first_evaluated(panel, pixels)
        photons = [
            self._sum(panel, pixels[: opening + 1], first, stale, remembered),
            self._sum(panel, pixels[opening + 1 :], stale, stale, remembered),
        ]
        return torch.cat(photons), carryover.store_phi_final(
            cache, slow[opening:], fast[opening:], stale[-1]
        )

    def _stale_of(self, cache: carryover.PhiCache, slow: Tensor, fast: Tensor) -> Tensor:
        """The vectors that pixels [n] see after those in the cache: the same object for all but
        the run's first pixel, so that what is made of them is made once."""
        is_first = int(slow[0]) * cache.shape[1] + int(fast[0]) == cache.first
        known = self._known_stale
        if known is not None and known[0] is cache.vectors and not is_first:
            return known[1]
        entering = carryover.apply_phi_carryover(cache, slow[:1], fast[:1], self.abc[0])[0]
        stale = carryover.stale_steps(self.abc, self.zero, entering)
        if not is_first and not torch.is_grad_enabled():
            self._known_stale = cache.vectors, stale
        return stale

    @torch.no_grad()
    def _first_evaluated(self, number: int, pixels: Tensor) -> int:
        """Which of the pixels is the first that has a sample within d_min; their number if none."""
        evaluated = torch.ones(len(pixels), dtype=torch.bool, device=pixels.device)
        if self.options.d_min > 0:
            evaluated = ~evaluated
            for sample, _, _ in self._samples(number, pixels):
                for group in self._groups(alone=True):
                    for incidence in group:
                        evaluated |= self._kept(self._scattering_vector(sample, incidence))
        return int(evaluated.int().argmax()) if evaluated.any() else len(pixels)

    def _groups(self, alone: bool) -> list[tuple[Incidence, ...]]:
        """The sources in turn, each with its steps if the beam moves; together those that need
        not be told apart, unless `alone`."""
        merged = not (alone or self.apart) and self.options.d_min == 0
        return incidences(self.incident, self.wavelengths, self.weight, merged)

    def _sum(
        self,
        number: int,
        pixels: Tensor,
        first: Tensor,
        rest: Tensor,
        remembered: derivatives.Remembered | None,
    ) -> Tensor:
        """The sum, with real-space vectors `first` for the first sample that d_min leaves in, of
        whichever pixel, and `rest` for all others."""
        rays = self._kept_rays(number, pixels) if first is rest else None
        if rays is not None:
            return self._sum_of_rays(rays, rest, remembered)
        options = self.options
        total = torch.zeros(len(pixels), dtype=options.index_dtype, device=pixels.device)
        polar, omega, vectors = None, None, first
        groups = self._groups(alone=first is not rest or self.watch is not None)
        self._show("pixels", pixels=pixels)
        for sample, omega, capture in self._samples(number, pixels):
            s1_unit = sample.s1_unit.T.contiguous()
            rough = self._rough(s1_unit, omega)
            for group in groups:
                evaluated = False
                for incidence in group:
                    kept = self._within_d_min(sample, incidence)
                    if kept is not None and not kept.any():
                        continue
                    evaluated = True
                    weight, polar = self._weight(sample, (omega, capture), incidence, polar, kept)
                    lattice = self._lattice(s1_unit, incidence, vectors, rough, remembered)
                    total = total + lattice * weight
                vectors = rest if evaluated else vectors
        once = self._once(total, omega, polar)
        return self._finished(number, pixels, total, once, (omega, polar))

    def _sum_of_rays(
        self, rays: Rays, vectors: Tensor, remembered: derivatives.Remembered | None
    ) -> Tensor:
        """`_sum` of pixels that are one sample each, for all sources, and have no water."""
        ((incidence,),) = self._groups(alone=False)
        total = self._lattice(rays.s1_unit, incidence, vectors, rays.rough, remembered)
        for factor in (rays.weight, self.spot_scale / self.steps, rays.once):
            if factor is not None:
                total = total * factor if total.requires_grad else total.mul_(factor)
        return total

    @property
    def steps(self) -> int:
        """Steps by which a pixel's sum is divided: sensor layers, which share the photons between
        them, are none."""
        steps, domains = self.abc.shape[:2]
        return len(self.weight) * self.options.oversample**2 * steps * domains

    def _weight(
        self,
        sample: Sample,
        factors: tuple[Tensor, Tensor],
        incidence: Incidence,
        polar: Tensor | None,
        kept: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """What weighs a sample [n], of factors (omega, capture), 0 where it is not kept; and the
        polarization that is taken once, `polar` so far."""
        options, (omega, capture) = self.options, factors
        weight = capture * omega if options.oversample_omega else capture
        if self.experiment.beam.kahn_factor is not None:
            if options.oversample_polar:
                weight = weight * self._polarization(sample.s1_unit, incidence)
            elif polar is None or kept is not None:
                polar = _of_first_kept(polar, self._polarization(sample.s1_unit, incidence), kept)
        if kept is not None:
            weight = torch.where(kept, weight, torch.zeros_like(weight))
        return weight, polar

    def _once(self, like: Tensor, omega: Tensor, polar: Tensor | None) -> Tensor | None:
        """The product of what is taken once; None: of nothing."""
        once = None if self.options.oversample_omega else omega
        if self.experiment.beam.kahn_factor is None or self.options.oversample_polar:
            return once
        polar = torch.zeros_like(like) if polar is None else polar  # 0 of what is wholly cut
        return polar if once is None else once * polar

    def has_rays(self, number: int) -> bool:
        """Whether those of a panel were kept by `keep_rays`, and may be used."""
        return number in self.prepared.rays and self.watch is None and not self.rays_vary

    def _kept_rays(self, number: int, pixels: Pixels) -> Rays | None:
        """Those of pixels that were kept by `keep_rays`."""
        if not self.has_rays(number):
            return None
        if isinstance(pixels, Tensor) and pixels.dim() == 2:
            pixels = pixel_numbers(self.prepared.panels[number], pixels)
        return self.prepared.rays[number][pixels]

    @torch.no_grad()
    def keep_rays(self) -> None:
        """Keep the geometry of all pixels for this and further images, where each pixel is one
        sample for all sources, and there is room."""
        options, groups = self.options, self._groups(alone=False)
        layers = [options.layers_of(number) for number in range(len(self.prepared.panels))]
        still = len(self.incident) == len(self.wavelengths) == 1
        one_each = options.oversample == 1 and all(layer_count(some) == 1 for some in layers)
        if len(groups) > 1 or not (still and one_each and self.prepared.may_keep_rays()):
            return
        if options.d_min > 0 or options.water_c_um > 0:
            return
        ((incidence,),) = groups
        for number, panel in enumerate(self.prepared.panels):
            if number not in self.prepared.rays:
                slow, fast = (torch.arange(n, device=self.abc.device) for n in panel.shape)
                rows = slow.split(max(1, sparse.POINTS // len(fast)))
                rays = (
                    self._rays(number, torch.cartesian_prod(some, fast), incidence) for some in rows
                )
                self.prepared.rays[number] = joined(rays, len(slow) * len(fast))

    def _rays(self, number: int, pixels: Tensor, incidence: Incidence) -> Rays:
        ((sample, omega, capture),) = self._samples(number, pixels)
        weight, polar = self._weight(sample, (omega, capture), incidence, None, None)
        once = self._once(weight, omega, polar)
        s1_unit = sample.s1_unit.T.contiguous()
        rough = self._rough(s1_unit, weight if once is None else weight * once)
        if self.options.layers_of(number) is None and weight is capture:
            weight = None
        return Rays(s1_unit, weight, once, rough)

    def _rough(self, s1_unit: Tensor, weight: Tensor) -> Rough | None:
        """Points [3, n] that `weight` [n] weighs, at most, as the bound takes them."""
        if self.bound is None:
            return None
        return Rough.of(s1_unit, weight, self.prepared.xtal_shape)

    def _finished(
        self,
        number: int,
        pixels: Tensor,
        weighted: Tensor,
        once: Tensor | None,
        factors: tuple[Tensor | None, Tensor | None],
    ) -> Tensor:
        """From the weighted sum over samples to that over steps. once: the product of the factors
        (omega, polar) that are taken once."""
        options, water = self.options, None
        total = weighted * (self.spot_scale / self.steps)
        if options.water_c_um > 0:
            panel = self.prepared.panels[number]
            water = self.water * captured_once(panel, pixels, options, number)
            total = total + water / self.steps
        omega, polar = factors
        self._show(
            "sum", weighted=weighted, water=water, omega=omega, polar=polar, steps=self.steps
        )
        return total if once is None else total * once

    def _show(self, step: str, **values: Any) -> None:
        if self.watch is not None:
            self.watch(step, values)

    def _samples(self, number: int, pixels: Tensor) -> Iterator[tuple[Sample, Tensor, Tensor]]:
        panel = self.prepared.panels[number]
        return weighted_samples(panel, pixels, self.options, number, self._show)

    def _polarization(self, s1_unit: Tensor, incidence: Incidence) -> Tensor:
        """[n] of s1 [n, 3]."""
        beam = self.experiment.beam
        axis = beam.polarization_axis.to(s1_unit.dtype)
        kahn_factor = beam.kahn_factor.to(s1_unit.dtype)
        polar = polarization(s1_unit, incidence.s0_unit, axis, kahn_factor)
        self._show("polarization", polar=polar)
        return polar

    def _scattering_vector(self, sample: Sample, incidence: Incidence) -> Tensor:
        """q [n, 3] of a single source."""
        return scattering_vector(sample.s1_unit, incidence.s0_unit, incidence.wavelength)

    def _kept(self, q: Tensor) -> Tensor:
        """Which of q [n, 3] d_min leaves in, [n]."""
        return torch.linalg.vector_norm(q.detach(), dim=-1) * self.options.d_min <= 1

    def _within_d_min(self, sample: Sample, incidence: Incidence) -> Tensor | None:
        """Which samples d_min leaves in, [n]; None: all of them."""
        if self.options.d_min == 0 and self.watch is None:
            return None
        q = self._scattering_vector(sample, incidence)
        kept = None if self.options.d_min == 0 else self._kept(q)
        self._show("ray", incidence=incidence, q=q, kept=kept)
        return kept

    def make_bound(self, compiled: bool = False) -> sparse.Bound:
        """What the sparse kernel leaves terms out by; compiled: whether by compiled code."""
        return sparse.Bound(self.prepared, self.scatterer, self.photons, compiled)

    def incidences(self) -> list[Incidence]:
        """All from where it is summed."""
        return [incidence for group in self._groups(alone=False) for incidence in group]

    def trees(self) -> list[Tree]:
        """Of all that is summed over."""
        return [self.known.tree(incidence, self.abc) for incidence in self.incidences()]

    @property
    def sums_per_pixel(self) -> int:
        """How many sums over terms a pixel is made of."""
        layers = [layer_count(self.options.layers_of(i)) for i in range(len(self.prepared.panels))]
        return self.options.oversample**2 * max(layers) * len(self.incidences())

    @property
    def varies(self) -> bool:
        """Whether gradients are wanted, and of something."""
        return torch.is_grad_enabled() and any(one.requires_grad for one in self._tensors)

    @property
    def is_dual(self) -> bool:
        """Whether something carries tangents, of torch's forward mode."""
        return is_dual(*self._tensors)

    @property
    def _tensors(self) -> Iterator[Tensor]:
        return tensors_of(self.experiment, self.options.layers, self.prepared.amplitudes.Fhkl)

    @property
    def rays_vary(self) -> bool:
        """Whether they are of what `Rays` are made of."""
        beam = self.experiment.beam
        made_of = (
            self.experiment.panels,
            self.options.layers,
            (beam.direction, beam.kahn_factor, beam.polarization_axis),
        )
        return torch.is_grad_enabled() and any(one.requires_grad for one in tensors_of(made_of))

    @property
    def slopes(self) -> tuple[bool, bool] | None:
        """Of `channels.channels`, whether gradients want everything, and placed; None: no gradients
        are wanted."""
        if not self.varies:
            return None
        shape = self.scatterer.ncells.requires_grad or self.scatterer.fudge.requires_grad
        return shape, self.scatterer.squares.requires_grad

    @property
    def has_slopes(self) -> bool:
        """Whether the derivatives of the sum over terms are made by `derivatives`, not by torch."""
        return not self.options.interpolate and derivatives.has_slopes(self.scatterer)

    def compile(self, for_sparse: bool, slopes: tuple[bool, bool] | None = None) -> bool:
        """Have the functions compiled that this kernel calls; slopes: also those for derivatives,
        whether of `channels.channels` everything, and placed, is wanted. Whether all could be."""
        if self.options.interpolate:
            return False
        scatterer, device = self.scatterer, self.abc.device
        of = scatterer.xtal_shape, self.options.index_dtype, self.options.value_dtype
        wanted = [compiled.lattice_sum_of(*of)]
        if for_sparse:
            wanted += [compiled.exceeds_of(of[0], single) for single in (True, False)]
        if slopes is not None:
            wanted.append(compiled.channels_of(*of, *slopes))
        return all([one.want(device) for one in wanted])

    def candidates(self, number: int) -> Tensor | None:
        """Numbers [n] of the pixels of a panel that the sparse kernel evaluates; None: all."""
        mask = self.experiment.panels[number].mask
        rays = self.prepared.rays[number] if self.has_rays(number) else None
        return sparse.candidates(self.prepared, number, self.bound, self.trees(), mask, rays)

    def _lattice(
        self,
        s1_unit: Tensor,
        incidence: Incidence,
        vectors: Tensor,
        rough: Rough | None,
        remembered: derivatives.Remembered | None = None,
    ) -> Tensor:
        """Sum of F_cell^2 F_latt^2 over terms [n] at points [3, n]; with a bound, at least where
        `rough`, the same points, may have the tolerance."""
        if self.instead is not None:
            return self.instead(self, s1_unit, incidence, rough)
        if self.watch is None and self.varies and self.has_slopes:
            return self._differentiable(s1_unit, incidence, vectors, rough, remembered)
        if self.watch is not None:
            self._explain(s1_unit, incidence, vectors)
        return self._parts(incidence, vectors, rough, self.scatterer).value(s1_unit, slice(None))

    def _parts(
        self, incidence: Incidence, vectors: Tensor, rough: Rough | None, scatterer: Scatterer
    ) -> blocks.Parts:
        """How the sum over terms is made."""
        if self.bound is None or self.watch is not None:
            return blocks.Whole(self.known.terms(incidence, vectors), scatterer, self._how)
        tree, leaves = (of(incidence, vectors) for of in (self.known.tree, self.known.leaves))
        return sparse.Leaves(self.bound, tree, leaves, rough, scatterer, self._how)

    @property
    def _how(self) -> summing.How:
        between = self.prepared.amplitudes if self.options.interpolate else None
        return summing.How(self.compiled, between, self.options.batch_steps)

    def _explain(self, s1_unit: Tensor, incidence: Incidence, vectors: Tensor) -> None:
        amplitudes, maps = self.prepared.amplitudes, self.known.terms(incidence, vectors).maps
        self._show("vectors", vectors=incidence.vectors_of(vectors))
        interpolate = self.options.interpolate
        explain.explain(self._show, s1_unit, maps, self.scatterer, amplitudes, interpolate)

    def _differentiable(
        self,
        s1_unit: Tensor,
        incidence: Incidence,
        vectors: Tensor,
        rough: Rough | None,
        remembered: derivatives.Remembered | None,
    ) -> Tensor:
        """The sum with the gradients that `derivatives` makes."""
        terms = self.known.terms(incidence, vectors)
        known = None if remembered is None else remembered.known()
        lattice = self.lattice_of(incidence, vectors, rough)
        found = derivatives.lattice_sum(lattice, s1_unit, terms, self.scatterer, known)
        if remembered is not None:
            remembered.keep(found)
        return found

    @torch.no_grad()
    def lattice_of(
        self, incidence: Incidence, vectors: Tensor, rough: Rough | None
    ) -> blocks.Lattice:
        """The sum over terms, to be differentiated."""
        terms, scatterer = self.known.terms(incidence, vectors), self.scatterer.detach()
        parts = self._parts(incidence, vectors, rough, scatterer)
        return blocks.Lattice(terms.detach(), scatterer, self._how, parts)


def _of_first_kept(known: Tensor | None, now: Tensor, kept: Tensor | None) -> Tensor:
    """The polarization factor [n] of each pixel's first sample that d_min leaves in, 0 before it
    (nanoBragg.c's way to say so): `known` of the samples so far, `now` of the present one, where
    it is left in."""
    if kept is None:
        return now
    chosen = torch.where(kept, now, torch.zeros_like(now))
    return chosen if known is None else torch.where(known == 0, chosen, known)
