"""Every intermediate of a pixel, from its position to its photons, as the simulator computed it.

The dense kernel runs the very batch of pixels that `simulate` runs the pixel in, with someone
watching: what is recorded are the tensors that go into the image. In phi_carryover_mode c-parity
the pixels before it are simulated as far as they leave vectors behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanobragg_plugin import carryover
from nanobragg_plugin.constants import R_E_SQR, RTD
from nanobragg_plugin.kernels import dense, sparse
from nanobragg_plugin.kernels.samples import Sample as Place
from nanobragg_plugin.kernels.samples import layer_count
from nanobragg_plugin.lattice import square_sign
from nanobragg_plugin.models import Experiment, Exposure, SimulationOptions
from nanobragg_plugin.orientation import at_positions
from nanobragg_plugin.simulate import active_pixels, in_threads, pixel_batches, simulated_pixels
from nanobragg_plugin.structure_factors import StructureFactors

Vector = tuple[float, ...]


@dataclass(frozen=True)
class Domain:
    """A mosaic domain at a phi step: its cell, where q lies in its reciprocal lattice, and what it
    scatters. F_latt and, of a square crystal, its factors along a, b and c have nanoBragg.c's sign
    (`lattice.square_sign`); F_cell electrons; intensity is F_cell^2 F_latt^2."""

    a_ang: Vector
    b_ang: Vector
    c_ang: Vector
    hkl: Vector
    h0k0l0: tuple[int, ...]
    F_latt_abc: Vector | None
    F_latt: float
    F_cell: float
    intensity: float


@dataclass(frozen=True)
class Step:
    """A phi step. stale: it has the vectors of the step before (DESIGN section 5); domains: none
    where d_min leaves the ray out."""

    phi_deg: float
    stale: bool
    domains: tuple[Domain, ...]


@dataclass(frozen=True)
class Ray:
    """From a source to a sample. polar: None where the kernel did not evaluate it."""

    s0_unit: Vector
    wavelength_ang: float
    q_inv_ang: Vector
    stol_inv_ang: float
    cos_2theta: float
    polar: float | None
    within_d_min: bool


@dataclass(frozen=True)
class Source:
    """A source of the beam: one ray, or one for each step if the beam moves in the exposure."""

    weight: float
    rays: tuple[Ray, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Sample:
    """A sub-pixel of a layer. close_distance_mm: of the plane in which it sees its pixel. The
    solid angle and the capture fraction are those it is weighed by: its own, or the first
    sub-pixel's where they are taken once."""

    layer: int
    sub_slow: int
    sub_fast: int
    position_mm: Vector
    distance_mm: float
    close_distance_mm: float
    s1_unit: Vector
    omega_pixel_sr: float
    capture_fraction: float
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Inputs:
    """What the pixel was computed from. kahn_factor: None without polarization; d_min_ang: 0 for
    none; a_star ... : columns of A at the first step, unrotated."""

    panel: int
    slow: int
    fast: int
    precision: str
    phi_carryover_mode: str
    origin_mm: Vector
    fast_axis: Vector
    slow_axis: Vector
    normal: Vector
    pixel_size_mm: Vector
    a_star_inv_ang: Vector
    b_star_inv_ang: Vector
    c_star_inv_ang: Vector
    xtal_shape: str
    Ncells_abc: Vector
    fudge: float
    mosaic_frame: str
    mosaic_domains: int
    phisteps: int
    sources: int
    layers: int
    oversample: int
    oversample_omega: bool
    oversample_polar: bool
    oversample_thick: bool
    point_pixel: bool
    interpolate: bool
    d_min_ang: float
    water_c_um: float
    kahn_factor: float | None
    polarization_axis: Vector
    fluence_photons_per_m2: float
    r_e_sqr_m2: float
    spot_scale: float
    steps: int


@dataclass(frozen=True)
class Sums:
    """From the samples to photons = r_e_sqr fluence (I_weighted spot_scale + water) omega polar
    / steps.

    I_before_scaling: the sum of F_cell^2 F_latt^2; I_weighted: the same with the weights of the
    sources, the capture fractions, and what is taken at every sample. omega_pixel_sr, polar: as
    applied at the end, None if they are taken at every sample; capture_fraction: of all samples,
    None if they differ. left_out: images leave the pixel 0, as it is known to have less than the
    tolerance.
    """

    I_before_scaling: float
    I_weighted: float
    water: float
    omega_pixel_sr: float | None
    polar: float | None
    capture_fraction: float | None
    photons: float
    photons_float32: float
    left_out: bool


@dataclass(frozen=True)
class Point:
    """One evaluated term of the sum."""

    sample: Sample
    source: Source
    ray: Ray
    step: Step
    domain: Domain


@dataclass(frozen=True)
class Trace:
    """All of it, in the order of evaluation."""

    inputs: Inputs
    samples: tuple[Sample, ...]
    sums: Sums

    def points(self) -> Iterator[Point]:
        """Every term that d_min leaves in; the first and the last are nanoBragg.c's."""
        for sample in self.samples:
            for source in sample.sources:
                for k, step in enumerate(source.steps):
                    ray = source.rays[k if len(source.rays) > 1 else 0]
                    for domain in step.domains:
                        yield Point(sample, source, ray, step, domain)


def check_pixel(experiment: Experiment, panel: int, slow: int, fast: int) -> None:
    """ValueError unless the pixel is one that is simulated."""
    count = len(experiment.panels)
    if not 0 <= panel < count:
        raise ValueError(f"there is no panel {panel}: the detector has {count}, counted from 0")
    model = experiment.panels[panel]
    n_slow, n_fast = model.shape
    if not (0 <= slow < n_slow and 0 <= fast < n_fast):
        raise ValueError(
            f"the pixel slow {slow}, fast {fast} is outside panel {panel}, which has {n_slow} x "
            f"{n_fast} pixels (slow x fast), counted from 0"
        )
    if model.mask is not None and not model.mask[slow, fast]:
        raise ValueError(
            f"the pixel slow {slow}, fast {fast} of panel {panel} is not simulated: it is masked, "
            "or outside the region of interest"
        )


@torch.no_grad()
def trace_pixel(
    experiment: Experiment,
    exposure: Exposure,
    structure_factors: StructureFactors,
    options: SimulationOptions,
    panel: int,
    slow: int,
    fast: int,
) -> Trace:
    """Trace a pixel; ValueError for one that is not simulated."""
    check_pixel(experiment, panel, slow, fast)
    kernel = dense.Kernel(experiment, exposure, structure_factors, options)
    pixel = torch.tensor([slow, fast], device=experiment.panels[panel].origin.device)
    batch, cache, left_out = _batch(kernel, panel, pixel)
    recorder = Recorder(kernel, exposure, pixel)
    kernel.watch = recorder
    ((answer, _),) = in_threads(lambda pixels: kernel(panel, pixels, cache), [batch])
    (row,) = (batch == pixel).all(1).nonzero()[0].tolist()
    photons = (R_E_SQR * experiment.beam.fluence * answer)[row]
    samples = tuple(recorder.samples())
    inputs = _inputs(kernel, exposure, (panel, slow, fast), recorder.steps)
    return Trace(inputs, samples, recorder.sums(samples, photons, left_out))


def _batch(
    kernel: dense.Kernel, panel: int, pixel: Tensor
) -> tuple[Tensor, carryover.PhiCache | None, bool]:
    """The pixels that `simulate` evaluates together with this one, the phi cache that they find,
    and whether `simulate` leaves the pixel out (it is then alone)."""
    model, options = kernel.experiment.panels[panel], kernel.options
    steps, domains = kernel.abc.shape[:2]
    pixels, cache = simulated_pixels(model), None
    if options.phi_carryover_mode == "c-parity":
        cache = carryover.initialize_phi_cache(model.shape, domains)
    elif sparse.has_bound(kernel, options.tolerance):
        scale = R_E_SQR * kernel.experiment.beam.fluence * kernel.spot_scale
        pixels = active_pixels(kernel, panel, pixels, float(scale))
    for batch in pixel_batches(pixels, steps * domains, options.batch_steps):
        if (batch == pixel).all(1).any():
            return batch, cache, False
        if cache is not None and not cache.valid:
            ((_, cache),) = in_threads(lambda some: kernel(panel, some, cache), [batch])  # noqa: B023
    return pixel[None], cache, True


def _inputs(
    kernel: dense.Kernel, exposure: Exposure, at: tuple[int, int, int], steps: int
) -> Inputs:
    experiment, options = kernel.experiment, kernel.options
    crystal, beam = experiment.crystal, experiment.beam
    panel = dense.in_dtype(experiment.panels[at[0]], options)
    first = torch.tensor(exposure.position[:1], dtype=torch.float64, device=crystal.A.device)
    phisteps, domains = kernel.abc.shape[:2]
    switches = "oversample oversample_omega oversample_polar oversample_thick point_pixel".split()
    return Inputs(
        *at,
        options.precision,
        options.phi_carryover_mode,
        *(_floats(v) for v in (panel.origin, panel.fast, panel.slow, panel.normal)),
        _floats(panel.pixel_size),
        *(_floats(column) for column in at_positions(crystal.A, first)[0].T),
        crystal.xtal_shape,
        _floats(kernel.ncells),
        float(kernel.fudge),
        crystal.mosaic_frame,
        domains,
        phisteps,
        len(kernel.weight),
        layer_count(options.layers_of(at[0])),
        *(getattr(options, name) for name in switches),
        options.interpolate,
        options.d_min,
        options.water_c_um,
        None if beam.kahn_factor is None else float(beam.kahn_factor),
        _floats(beam.polarization_axis),
        float(beam.fluence),
        R_E_SQR,
        float(kernel.spot_scale),
        steps,
    )


def _floats(values: Tensor) -> Vector:
    return tuple(values.tolist())
