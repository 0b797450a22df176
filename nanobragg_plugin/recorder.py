"""What a kernel shows while it sums, kept for one pixel and put into records."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from nanobragg_plugin.constants import RTD
from nanobragg_plugin.kernels.dense import Kernel
from nanobragg_plugin.lattice import square_sign
from nanobragg_plugin.models import Exposure
from nanobragg_plugin.traced import Domain, Ray, Sample, Source, Step, Sums, Vector


class Recorder:
    """Watches a kernel, and keeps what concerns one pixel [2] (slow, fast)."""

    def __init__(self, kernel: Kernel, exposure: Exposure, pixel: Tensor) -> None:
        self.kernel, self.exposure, self.pixel = kernel, exposure, pixel
        self.row: int | None = None
        self.seen: list[dict[str, Any]] = []
        self.end: dict[str, Any] = {}

    def __call__(self, step: str, values: dict[str, Any]) -> None:
        """What the kernel computed at a step of a sum over pixels, of which one may be ours."""
        if step == "pixels":
            rows = (values["pixels"] == self.pixel).all(1).nonzero()[:, 0].tolist()
            self.row = rows[0] if rows else None
        if step == "pixels" or self.row is None:
            return
        # the vectors alone are the same for all pixels
        ours = {name: v if name == "vectors" else self._ours(v) for name, v in values.items()}
        if step == "sample":
            self.seen.append({**ours, "rays": []})
        elif step == "ray":
            self.seen[-1]["rays"].append(ours)
        elif step == "sum":
            self.end = ours
        else:
            self.seen[-1]["rays"][-1].update(ours)

    def _ours(self, value: Any) -> Any:
        """Our row of tensors [n, ...]; anything else as it is."""
        if isinstance(value, (list, tuple)):
            return [self._ours(item) for item in value]
        if not isinstance(value, Tensor):
            return value
        return (value[self.row] if value.ndim else value).detach().clone()

    def samples(self) -> tuple[Sample, ...]:
        """The records of all that was seen."""
        n = self.kernel.options.oversample
        return tuple(
            Sample(
                layer=seen["layer"],
                sub_slow=math.floor(seen["offset"][0] * n),
                sub_fast=math.floor(seen["offset"][1] * n),
                position_mm=floats(seen["position"]),
                distance_mm=float(seen["distance"]),
                close_distance_mm=float(seen["plane"]),
                s1_unit=floats(seen["s1_unit"]),
                omega_pixel_sr=float(seen["omega"]),
                capture_fraction=float(seen["capture"]),
                sources=tuple(
                    self._source(seen["s1_unit"], list(group))
                    for _, group in groupby(seen["rays"], _sources_of)
                ),
            )
            for seen in self.seen
        )

    def _source(self, s1_unit: Tensor, seen: list[dict[str, Any]]) -> Source:
        """Of what was seen of a source: once, or once for each step if the beam moves."""
        weight = float(seen[0]["incidence"].weight)
        rays = tuple(self._ray(s1_unit, one) for one in seen)
        return Source(weight, rays, tuple(self._steps(rays, seen)))

    def _ray(self, s1_unit: Tensor, seen: dict[str, Any]) -> Ray:
        incidence, q = seen["incidence"], seen["q"]
        kept = seen["kept"] is None or bool(seen["kept"])
        # of a ray that is left out, it is evaluated only for other pixels' sake; without
        # polarization there is nothing to evaluate
        polar = float(seen["polar"]) if "polar" in seen else None
        if self.kernel.experiment.beam.kahn_factor is None:
            polar = 1.0
        return Ray(
            s0_unit=floats(incidence.s0_unit),
            wavelength_ang=float(incidence.wavelength),
            q_inv_ang=floats(q),
            stol_inv_ang=float(torch.linalg.vector_norm(q)) / 2,
            cos_2theta=float(s1_unit @ incidence.s0_unit),
            polar=polar if kept else None,
            within_d_min=kept,
        )

    def _steps(self, rays: tuple[Ray, ...], seen: list[dict[str, Any]]) -> Iterator[Step]:
        moving = len(rays) > 1
        for k, phi in enumerate(self.exposure.phi):
            one, place = (seen[k], 0) if moving else (seen[0], k)
            if not rays[k if moving else 0].within_d_min:
                yield Step(phi * RTD, False, ())
                continue
            vectors = one["vectors"][place]
            stale = not torch.equal(vectors, self.kernel.abc[k])
            domains = tuple(self._domain(one, place, number) for number in range(len(vectors)))
            yield Step(phi * RTD, stale, domains)

    def _domain(self, seen: dict[str, Any], step: int, domain: int) -> Domain:
        abc = seen["vectors"][step, domain]
        m = step * seen["vectors"].shape[1] + domain
        nearest = torch.stack([axis[m] for axis in seen["nearest"]])
        parts, f_latt = None, float(seen["F_latt"][m])
        if self.kernel.experiment.crystal.xtal_shape == "square":
            ncells = self.kernel.ncells.to(nearest.dtype)
            sign = square_sign(nearest, ncells)
            # of a number of cells that is not whole, F_latt is its periodic form, without a sign
            sign = torch.where(ncells == ncells.round(), sign, torch.ones_like(sign))
            parts = tuple(float(part[m] * one) for part, one in zip(seen["parts"], sign))
            f_latt *= float(sign.prod())
        return Domain(
            *(floats(vector) for vector in abc),
            hkl=tuple(float(axis[m]) for axis in seen["hkl"]),
            h0k0l0=tuple(int(index) for index in nearest),
            F_latt_abc=parts,
            F_latt=f_latt,
            F_cell=float(seen["F_cell"][m]),
            intensity=float(seen["intensity"][m]),
        )

    def sums(
        self, samples: tuple[Sample, ...], photons: Tensor, left_out: float, spots_left: float
    ) -> Sums:
        """From the samples to photons [1]."""
        options, end = self.kernel.options, self.end
        captures = {sample.capture_fraction for sample in samples}
        unpolarized = self.kernel.experiment.beam.kahn_factor is None
        polar = 0.0 if end["polar"] is None else float(end["polar"])
        if options.oversample_polar or unpolarized:
            polar = None if options.oversample_polar else 1.0
        return Sums(
            I_before_scaling=math.fsum(
                domain.intensity
                for sample in samples
                for source in sample.sources
                for step in source.steps
                for domain in step.domains
            ),
            I_weighted=float(end["weighted"]),
            water=0.0 if end["water"] is None else float(end["water"]),
            omega_pixel_sr=None if options.oversample_omega else float(end["omega"]),
            polar=polar,
            capture_fraction=captures.pop() if len(captures) == 1 else None,
            steps=end["steps"],
            photons=float(photons),
            photons_float32=float(photons.float()),
            left_out=left_out,
            spots_left=spots_left,
        )


def _sources_of(seen: dict[str, Any]) -> tuple[int, ...]:
    return seen["incidence"].sources


def floats(values: Tensor) -> Vector:
    """The elements of a vector."""
    return tuple(values.tolist())
