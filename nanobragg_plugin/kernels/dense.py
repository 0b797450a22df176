"""The dense kernel: every sample of every pixel, in batches of torch operations.

hkl are computed and reduced to the distance from the nearest index in float64; what follows
may be float32 (`precision`). A batch's samples are pixels x phi steps x mosaic domains; the
sums over sub-pixels, sensor layers and sources are loops around it, in that order, so that a
pixel's steps are always summed alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nanobragg_plugin import carryover, structure_factors
from nanobragg_plugin.corrections import (
    capture_fraction,
    layer_depth,
    polarization,
    seen_plane,
    solid_angle,
)
from nanobragg_plugin.geometry import lab_position, scattering_vector, subpixel_offsets, unit
from nanobragg_plugin.lattice import lattice_factor
from nanobragg_plugin.models import Experiment, Exposure, Layers, Panel, SimulationOptions
from nanobragg_plugin.orientation import at_positions, incident, real_space_vectors
from nanobragg_plugin.structure_factors import StructureFactors


@dataclass(frozen=True)
class Sample:
    """Where a layer's sub-pixel lies: s1_unit [n, 3], distance [n] mm, cosine [n] = |s1 . n|."""

    s1_unit: Tensor
    distance: Tensor
    cosine: Tensor


class Kernel:
    """Sums of one image: made once, called for batches of pixels.

    Arguments as `kernels.reference.Kernel`, its slow twin.
    """

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
        self.metric = (a_matrix.T @ a_matrix).to(value)
        self.ncells, self.fudge = crystal.Ncells_abc.to(value), crystal.fudge.to(value)
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

        F_cell^2 F_latt^2 with every correction factor and weight, divided by the number of
        steps; times r_e^2 fluence spot_scale it is expected photons. With a cache the phi
        carryover of nanoBragg.c is emulated, and the cache after these pixels returned.
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
        photons = [
            self._sum(panel, pixels[:1], first, stale),
            self._sum(panel, pixels[1:], stale, stale),
        ]
        return torch.cat(photons), carryover.store_phi_final(cache, slow, fast, stale[-1])

    def _sum(self, number: int, pixels: Tensor, first: Tensor, rest: Tensor) -> Tensor:
        """The sum, its first sample with real-space vectors `first`, all others `rest`."""
        options, panel = self.options, in_dtype(self.experiment.panels[number], self.options)
        layers = options.layers_of(number)
        total = torch.zeros(len(pixels), dtype=options.index_dtype, device=pixels.device)
        omega = polar = None
        vectors = first
        offsets = subpixel_offsets(options.oversample)
        n_layers = 1 if layers is None else len(layers.edges) - 1
        for layer in range(n_layers):
            capture = None
            if layers is not None and layers.capture == "last":
                last = _sample(panel, pixels, offsets[0], layers, n_layers - 1)
                capture = _capture(panel, last, layers, n_layers - 1)
            for offset in offsets:
                sample = _sample(panel, pixels, offset, layers, layer)
                if omega is None or options.oversample_omega:
                    plane = seen_plane(panel, layers, sample.distance, sample.cosine)
                    omega = solid_angle(panel, sample.distance, plane, options.point_pixel)
                if capture is None or options.oversample_thick:
                    capture = _capture(panel, sample, layers, layer)
                for source in range(len(self.weight)):
                    s0 = self.incident[:, source]
                    if polar is None or options.oversample_polar:
                        polar = self._polarization(sample.s1_unit, s0)
                    intensity = self._intensity(sample.s1_unit, source, vectors)
                    vectors = rest
                    if options.oversample_polar:
                        intensity = intensity * polar
                    summed = intensity.sum(-1) * self.weight[source]
                    factor = capture * omega if options.oversample_omega else capture
                    total = total + summed * factor
        if not options.oversample_omega:
            total = total * omega
        if not options.oversample_polar:
            total = total * polar[:, 0]
        steps = len(self.weight) * len(offsets) * self.abc.shape[0] * self.abc.shape[1]
        return total / steps

    def _polarization(self, s1_unit: Tensor, s0: Tensor) -> Tensor:
        """[n, steps or 1] of s1 [n, 3] and s0 [steps or 1, 3]."""
        beam = self.experiment.beam
        if beam.kahn_factor is None:
            return torch.ones(len(s1_unit), 1, dtype=s1_unit.dtype, device=s1_unit.device)
        axis = beam.polarization_axis.to(s1_unit.dtype)
        kahn_factor = beam.kahn_factor.to(s1_unit.dtype)
        shape = (len(s1_unit), len(s0), 3)
        return polarization(s1_unit[:, None].expand(shape), s0.expand(shape), axis, kahn_factor)

    def _intensity(self, s1_unit: Tensor, source: int, vectors: Tensor) -> Tensor:
        """F_cell^2 F_latt^2 summed over mosaic domains: [n, steps]."""
        f_cell, f_latt, _ = self._amplitudes(s1_unit, source, vectors)
        amplitude = f_cell * f_latt
        return (amplitude * amplitude).unflatten(1, vectors.shape[:2]).sum(-1)

    def _amplitudes(
        self, s1_unit: Tensor, source: int, vectors: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """F_cell, F_latt and the nearest h0, k0, l0 of every sample: each [n, steps * domains]."""
        s0, wavelength = self.incident[:, source], self.wavelengths[:, source]
        if len(s0) == len(wavelength) == 1:
            q = scattering_vector(s1_unit, s0, wavelength)
            indices = [q @ vectors[:, :, i].reshape(-1, 3).T for i in range(3)]
        else:  # the beam moves during the exposure: a q for every step
            q = scattering_vector(s1_unit[:, None], s0, wavelength)
            indices = [
                torch.einsum("nkx,kmx->nkm", q, vectors[:, :, i]).flatten(1) for i in range(3)
            ]
        # ceil(x - 1/2): nanoBragg.c's nearest index, which takes a half downwards
        nearest = [torch.ceil(x.detach() - 0.5) for x in indices]
        delta = tuple((x - x0).to(self.options.value_dtype) for x, x0 in zip(indices, nearest))
        crystal = self.experiment.crystal
        f_latt = lattice_factor(delta, self.ncells, crystal.xtal_shape, self.fudge, self.metric)
        return structure_factors.nearest(self.amplitudes, *nearest), f_latt, nearest


def in_dtype(panel: Panel, options: SimulationOptions) -> Panel:
    """The panel in the type of positions."""
    dtype = options.index_dtype
    return Panel(
        *(getattr(panel, name).to(dtype) for name in ("origin", "fast", "slow", "pixel_size")),
        image_size=panel.image_size,
        thickness=panel.thickness.to(dtype),
        mu=panel.mu.to(dtype),
        mask=panel.mask,
        name=panel.name,
    )


def _sample(
    panel: Panel, pixels: Tensor, offset: tuple[float, float], layers: Layers | None, layer: int
) -> Sample:
    """The points of a sub-pixel, as deep in the sensor as the layer is sampled."""
    slow, fast = (
        pixels[:, axis].to(panel.origin.dtype) + shift for axis, shift in enumerate(offset)
    )
    position = lab_position(panel, slow, fast)
    s1_unit, distance = unit(position)
    normal = panel.normal
    cosine = s1_unit @ normal
    if layers is not None:
        depth = layer_depth(layers, layer, panel.mu, cosine)
        s1_unit, distance = unit(position + depth[:, None] * normal)
        cosine = s1_unit @ normal
    return Sample(s1_unit, distance, cosine)


def _capture(panel: Panel, sample: Sample, layers: Layers | None, layer: int) -> Tensor:
    if layers is None:
        return torch.ones_like(sample.distance)
    return capture_fraction(layers, layer, panel.mu, sample.cosine)
