"""The dense kernel: every sample of every pixel, in batches of torch operations.

hkl are computed and reduced to the distance from the nearest index in float64; what follows
may be float32 (`precision`). A batch's samples are pixels x phi steps x mosaic domains; the
sums over sub-pixels, sensor layers and sources are loops around it, in that order, so that a
pixel's steps are always summed alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from nanobragg_plugin import background, carryover, structure_factors
from nanobragg_plugin.corrections import polarization, seen_plane, solid_angle
from nanobragg_plugin.geometry import scattering_vector, subpixel_offsets
from nanobragg_plugin.kernels.samples import Sample, capture_of, layer_count, sample_of
from nanobragg_plugin.lattice import factors
from nanobragg_plugin.models import Experiment, Exposure, Panel, SimulationOptions
from nanobragg_plugin.orientation import at_positions, incident, real_space_vectors
from nanobragg_plugin.structure_factors import StructureFactors


class Kernel:
    """Sums of one image: made once, called for batches of pixels.

    Arguments as `kernels.reference.Kernel`, its slow twin. `watch` is given a name and the
    tensors of each step of a sum, as they go into it (for `trace`).
    """

    watch: Callable[[str, dict[str, Any]], None] | None = None

    def __init__(
        self,
        experiment: Experiment,
        exposure: Exposure,
        structure_factors: StructureFactors,
        options: SimulationOptions,
    ) -> None:
        index, value = options.index_dtype, options.value_dtype
        crystal, beam = experiment.crystal, experiment.beam
        self.experiment, self.options = experiment, options
        abc = real_space_vectors(crystal, experiment.goniometer, exposure)
        self.abc = abc.to(index)
        self.zero = carryover.is_zero(exposure.phi)
        directions, wavelengths = incident(beam, exposure)
        self.incident, self.wavelengths = directions.to(index), wavelengths.to(index)
        self.weight = (beam.weight / beam.weight.mean()).to(value)
        # of the crystal's middle position: only the `_star` shapes use it, whose factor is
        # that of the unrotated cell in nanoBragg.c too
        position = torch.tensor(exposure.position, dtype=torch.float64, device=abc.device)
        a_matrix = at_positions(crystal.A, position.mean()[None])[0]
        self.metric = (a_matrix.T @ a_matrix).to(index)
        self.ncells, self.fudge = crystal.Ncells_abc.to(index), crystal.fudge.to(value)
        self.spot_scale = crystal.spot_scale.to(index)
        self.water = background.water_c(options.water_c_um, beam.fluence).to(index)
        self.amplitudes = structure_factors.to(dtype=value)
        box = self.amplitudes.Fhkl.detach()
        self.strongest = torch.maximum(box.amax(), -box.amin())

    def __call__(
        self,
        panel: int,
        pixels: Tensor,
        cache: carryover.PhiCache | None = None,
    ) -> tuple[Tensor, carryover.PhiCache | None]:
        """Sum over the samples of pixels [n, 2] (slow, fast) in raster order, [n].

        spot_scale F_cell^2 F_latt^2 with every correction factor and weight, and nanoBragg.c's
        water, divided by the number of steps; times r_e^2 fluence it is expected photons. With a
        cache the phi carryover of nanoBragg.c is emulated, and the cache after these pixels
        returned: still empty if d_min leaves out all of their samples.
        """
        if cache is None:
            return self._sum(panel, pixels, self.abc, self.abc), None
        slow, fast = pixels.unbind(-1)
        fresh = self.abc[0]
        if cache.valid:
            entering = carryover.apply_phi_carryover(cache, slow[:1], fast[:1], fresh)[0]
            stale = carryover.stale_steps(self.abc, self.zero, entering)
            return self._sum(panel, pixels, stale, stale), carryover.store_phi_final(
                cache, slow, fast, stale[-1]
            )
        # the run's first sample alone has no predecessor
        first = carryover.stale_steps(self.abc, self.zero, fresh)
        stale = carryover.stale_steps(self.abc, self.zero, first[-1])
        opening = self._first_evaluated(panel, pixels)
        photons = [
            self._sum(panel, pixels[: opening + 1], first, stale),
            self._sum(panel, pixels[opening + 1 :], stale, stale),
        ]
        return torch.cat(photons), carryover.store_phi_final(
            cache, slow[opening:], fast[opening:], stale[-1]
        )

    @torch.no_grad()
    def _first_evaluated(self, number: int, pixels: Tensor) -> int:
        """Which of the pixels is the first that has a sample within d_min; their number if none."""
        evaluated = torch.ones(len(pixels), dtype=torch.bool, device=pixels.device)
        if self.options.d_min > 0:
            evaluated = ~evaluated
            for sample, _, _ in self._samples(number, pixels):
                for source in range(len(self.weight)):
                    kept = self._kept(self._scattering_vector(sample.s1_unit, source))
                    evaluated = evaluated | kept.any(1)
        return int(evaluated.int().argmax()) if evaluated.any() else len(pixels)

    def _sum(self, number: int, pixels: Tensor, first: Tensor, rest: Tensor) -> Tensor:
        """The sum, with real-space vectors `first` for the first sample that d_min leaves in, of
        whichever pixel, and `rest` for all others."""
        options = self.options
        once = not options.oversample_polar and self.experiment.beam.kahn_factor is not None
        total = torch.zeros(len(pixels), dtype=options.index_dtype, device=pixels.device)
        polar, vectors = None, first
        self._show("pixels", pixels=pixels)
        for sample, omega, capture in self._samples(number, pixels):
            for source in range(len(self.weight)):
                q = self._scattering_vector(sample.s1_unit, source)
                kept = self._kept(q)
                self._show("ray", source=source, q=q, kept=kept)
                if kept is not None and not kept.any():
                    continue
                if once and (polar is None or kept is not None):
                    polar = _of_first_kept(polar, self._polarization(sample.s1_unit, source), kept)
                intensity = self._intensity(q, vectors)
                vectors = rest
                if options.oversample_polar:
                    intensity = intensity * self._polarization(sample.s1_unit, source)
                if kept is not None:
                    intensity = torch.where(kept, intensity, torch.zeros_like(intensity))
                summed = intensity.sum(-1) * self.weight[source]
                factor = capture * omega if options.oversample_omega else capture
                total = total + summed * factor
        weighted, water = total, None
        total = total * self.spot_scale
        if options.water_c_um > 0:
            water = self._water(number, pixels)
            total = total + water
        if not options.oversample_omega:
            total = total * omega
        if once:  # 0 of a pixel that is wholly cut
            total = total * (torch.zeros_like(total) if polar is None else polar)
        steps = len(self.weight) * options.oversample**2 * self.abc.shape[0] * self.abc.shape[1]
        self._show("sum", weighted=weighted, water=water, omega=omega, polar=polar, steps=steps)
        return total / steps

    def _show(self, step: str, **values: Any) -> None:
        if self.watch is not None:
            self.watch(step, values)

    def _samples(self, number: int, pixels: Tensor) -> Iterator[tuple[Sample, Tensor, Tensor]]:
        """Every layer's sub-pixels with their solid angle and capture [n]: their own, or the first
        sub-pixel's (solid angle: of layer 0) where a factor is taken once."""
        options, panel = self.options, in_dtype(self.experiment.panels[number], self.options)
        layers = options.layers_of(number)
        offsets = subpixel_offsets(options.oversample)
        omega = None
        for layer in range(layer_count(layers)):
            capture = None
            if layers is not None and layers.capture == "last":
                last = sample_of(panel, pixels, offsets[0], layers, layer_count(layers) - 1)
                capture = capture_of(panel, last, layers, layer_count(layers) - 1)
            for offset in offsets:
                sample = sample_of(panel, pixels, offset, layers, layer)
                if omega is None or options.oversample_omega:
                    plane = seen_plane(panel, layers, sample.distance, sample.cosine)
                    omega = solid_angle(panel, sample.distance, plane, options.point_pixel)
                if capture is None or options.oversample_thick:
                    capture = capture_of(panel, sample, layers, layer)
                made = {"plane": plane, "omega": omega, "capture": capture}
                self._show("sample", layer=layer, offset=offset, **vars(sample), **made)
                yield sample, omega, capture

    def _water(self, number: int, pixels: Tensor) -> Tensor:
        """nanoBragg.c's water before solid angle and polarization, [n].

        It is captured only where capture is taken once: as the last layer captures, nanoBragg.c's
        defect, or as all layers together, which is what that defect stands for.
        """
        options, panel = self.options, in_dtype(self.experiment.panels[number], self.options)
        layers = options.layers_of(number)
        water = self.water.expand(len(pixels))
        if layers is None or options.oversample_thick:
            return water
        offset = subpixel_offsets(options.oversample)[0]
        first = layer_count(layers) - 1 if layers.capture == "last" else 0
        captured = torch.zeros_like(water)
        for layer in range(first, layer_count(layers)):
            sample = sample_of(panel, pixels, offset, layers, layer)
            captured = captured + capture_of(panel, sample, layers, layer)
        return water * captured

    def _polarization(self, s1_unit: Tensor, source: int) -> Tensor:
        """[n, steps or 1] of s1 [n, 3] and a source."""
        beam, s0 = self.experiment.beam, self.incident[:, source]
        if beam.kahn_factor is None:
            return torch.ones(len(s1_unit), 1, dtype=s1_unit.dtype, device=s1_unit.device)
        axis = beam.polarization_axis.to(s1_unit.dtype)
        kahn_factor = beam.kahn_factor.to(s1_unit.dtype)
        shape = (len(s1_unit), len(s0), 3)
        s1, s0 = s1_unit[:, None].expand(shape), s0.expand(shape)
        polar = polarization(s1, s0, axis, kahn_factor)
        self._show("polarization", polar=polar)
        return polar

    def _scattering_vector(self, s1_unit: Tensor, source: int) -> Tensor:
        """q of s1 [n, 3] and a source: [n, 3], or [n, steps, 3] if the beam moves during the
        exposure."""
        s0, wavelength = self.incident[:, source], self.wavelengths[:, source]
        if len(s0) == len(wavelength) == 1:
            return scattering_vector(s1_unit, s0, wavelength)
        return scattering_vector(s1_unit[:, None], s0, wavelength)

    def _kept(self, q: Tensor) -> Tensor | None:
        """Which samples d_min leaves in, [n, steps or 1] bool; None: all of them."""
        if self.options.d_min == 0:
            return None
        inside = torch.linalg.vector_norm(q.detach(), dim=-1) * self.options.d_min <= 1
        return inside if inside.ndim == 2 else inside[:, None]

    def _intensity(self, q: Tensor, vectors: Tensor) -> Tensor:
        """F_cell^2 F_latt^2 summed over mosaic domains: [n, steps]."""
        f_cell, f_latt, _ = self._amplitudes(q, vectors)
        amplitude = f_cell * f_latt
        intensity = (amplitude * amplitude).unflatten(1, vectors.shape[:2])
        self._show("intensity", vectors=vectors, intensity=intensity)
        return intensity.sum(-1)

    def _amplitudes(self, q: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """F_cell, F_latt and the nearest h0, k0, l0 of every sample: each [n, steps * domains]."""
        if q.ndim == 2:
            indices = [q @ vectors[:, :, i].reshape(-1, 3).T for i in range(3)]
        else:  # a q for every step
            indices = [
                torch.einsum("nkx,kmx->nkm", q, vectors[:, :, i]).flatten(1) for i in range(3)
            ]
        # ceil(x - 1/2): nanoBragg.c's nearest index, which takes a half downwards
        nearest = [torch.ceil(x.detach() - 0.5) for x in indices]
        delta = tuple(x - x0 for x, x0 in zip(indices, nearest))
        f_latt = self._lattice_factor(delta)
        if self.options.interpolate:
            f_cell = structure_factors.interpolated(self.amplitudes, *indices)
        else:
            f_cell = structure_factors.nearest(self.amplitudes, *nearest)
        self._show("amplitudes", hkl=indices, nearest=nearest, F_cell=f_cell, F_latt=f_latt)
        return f_cell, f_latt, nearest

    def _lattice_factor(self, delta: tuple[Tensor, ...]) -> Tensor:
        """F_latt of the distances from the nearest indices, [n, steps * domains]."""
        shape = self.experiment.crystal.xtal_shape
        dtype = self.options.value_dtype
        parts = factors(delta, self.ncells, shape, self.fudge, self.metric, dtype)
        self._show("lattice", parts=parts)
        return prod(parts[1:], start=parts[0])


def in_dtype(panel: Panel, options: SimulationOptions) -> Panel:
    """The panel in the type of positions."""
    dtype = options.index_dtype
    names = ("origin", "fast", "slow", "pixel_size", "thickness", "mu")
    converted = {name: getattr(panel, name).to(dtype) for name in names}
    for name in ("curved", "odet"):
        if getattr(panel, name) is not None:
            converted[name] = getattr(panel, name).to(dtype)
    return replace(panel, **converted)


def _of_first_kept(known: Tensor | None, now: Tensor, kept: Tensor | None) -> Tensor:
    """The polarization factor [n] of each pixel's first sample that d_min leaves in, 0 before it
    (nanoBragg.c's way to say so): `known` of the samples so far, `now` [n, steps or 1] of the
    present ones, of which `kept` are left in."""
    if kept is None:
        return now[:, 0]
    step = kept.int().argmax(1, keepdim=True)  # the first
    chosen = now.expand(kept.shape).gather(1, step)[:, 0]
    chosen = torch.where(kept.any(1), chosen, torch.zeros_like(chosen))
    return chosen if known is None else torch.where(known == 0, chosen, known)
