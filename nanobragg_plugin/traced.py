"""What a trace of a pixel holds: records in the order of evaluation; a suffix says the unit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Sums:
    """From the samples to photons = r_e_sqr fluence (I_weighted spot_scale + water) omega polar
    spots_left / steps.

    I_before_scaling: the sum of F_cell^2 F_latt^2; I_weighted: the same with the weights of the
    sources, the capture fractions, and what is taken at every sample. omega_pixel_sr, polar: as
    applied at the end, None if they are taken at every sample; capture_fraction: of all samples,
    None if they differ. left_out: photons that images lack of these, because of the tolerance;
    spots_left: the part that radiation damage and displacements leave; without diffuse scattering.
    """

    I_before_scaling: float
    I_weighted: float
    water: float
    omega_pixel_sr: float | None
    polar: float | None
    capture_fraction: float | None
    steps: int
    photons: float
    photons_float32: float
    left_out: float
    spots_left: float


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

    @property
    def first(self) -> Point | None:
        """The first term, which nanoBragg.c traces; None where d_min leaves nothing in."""
        return next(self.points(), None)

    @property
    def last(self) -> Point | None:
        """The last term, which nanoBragg.c's -printout_pixel prints."""
        terms = deque(self.points(), maxlen=1)
        return terms[0] if terms else None

    def points(self) -> Iterator[Point]:
        """Every term that d_min leaves in."""
        for sample in self.samples:
            for source in sample.sources:
                for k, step in enumerate(source.steps):
                    ray = source.rays[k if len(source.rays) > 1 else 0]
                    for domain in step.domains:
                        yield Point(sample, source, ray, step, domain)
