"""The reference kernel: nanoBragg's sum over samples in plain loops, in float64.

This is the specification. Every other kernel is tested against it, values and gradients, and
it shares no helper with them: whoever wants to know what is computed reads this file (and
`reference_detector`, its other half) alone.
Detector in mm, crystal and beam in Angstrom, angles in radians, vectors in the laboratory
frame. Tensors all the way, so that autograd follows. Slow: for tests only.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanobragg_plugin.constants import (
    GAUSS_WIDTH_SQR,
    R_E_SQR,
    ROUND_SCALE,
    TOPHAT_RADIUS_SQR,
)
from nanobragg_plugin.kernels.reference_detector import (
    absorbed_in,
    cross,
    length,
    sampled_point,
    solid_angle,
    turned,
)
from nanobragg_plugin.models import Experiment, Exposure, Layers, Panel, SimulationOptions
from nanobragg_plugin.structure_factors import StructureFactors


@dataclass(frozen=True)
class LastRotated:
    """What the C program's variables a, b, c hold after a sample: `abc[domain]` [3, 3], Angstrom.

    nanoBragg.c turns the cell only `if (phi != 0.0)` and never resets it, so that a step of
    phi exactly 0 sees the vectors of whatever step was evaluated before it.
    """

    abc: list[Tensor]


@dataclass
class Variables:
    """What the C program keeps while it goes through a pixel's samples: the vectors, and the
    factors (None: not yet taken) that are taken once, capture once a layer, or at every sample.
    """

    abc: list[Tensor]
    omega: Tensor | None = None
    polar: Tensor | None = None
    capture: Tensor | None = None


def sub_pixel(options: SimulationOptions, number: int) -> float:
    """Where a sub-pixel is sampled along an axis, in pixels: its centre, or as far from the
    pixel's middle as makes the mean square of these distances the pixel's, 1/12 (`moments`)."""
    n = options.oversample
    distances = [(i + 0.5) / n - 0.5 for i in range(n)]
    square = sum(distance**2 for distance in distances) / n
    wider = math.sqrt(1 / 12 / square) if options.subpixels == "moments" and n > 1 else 1
    return 0.5 + wider * distances[number]


class Kernel:
    """Sums of one image: made once, called for runs of pixels.

    experiment, exposure (the phi of its steps), structure_factors and options: see
    `nanobragg_plugin.models`; `options.precision` is ignored, everything is float64.
    """

    def __init__(
        self,
        experiment: Experiment,
        exposure: Exposure,
        structure_factors: StructureFactors,
        options: SimulationOptions,
    ) -> None:
        self.experiment, self.exposure, self.options = experiment, exposure, options
        self.structure_factors = structure_factors
        # the cell turned to every step, for every domain: what `rotate_axis` would give there
        self.fresh = [
            real_space_vectors(experiment, phi, position)
            for phi, position in zip(exposure.phi, exposure.position)
        ]
        # a*, b*, c* of the crystal before it is turned, at the middle of the exposure
        middle = sum(exposure.position) / len(exposure.position)
        self.reciprocal = at_scan_points(experiment.crystal.A, middle)

    def __call__(self, panel: int, pixels: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        """Sum over the samples of pixels [n, 2] (slow, fast) in raster order, [n].

        The sum is spot_scale F_cell^2 F_latt^2 omega polar capture weight, and nanoBragg.c's
        water, divided by the number of steps; times r_e^2 fluence it is expected photons.
        Without a cache every step is rotated freshly (`spec`). With one (`c-parity`)
        nanoBragg.c is emulated: hand in what the call before returned, or any other object
        where the run begins.
        """
        left = cache if isinstance(cache, LastRotated) else None
        sums = []
        for slow, fast in pixels.tolist():
            total, left = self._pixel(panel, slow, fast, left, rotate_always=cache is None)
            sums.append(total)
        total = torch.stack(sums) if sums else torch.zeros(0, dtype=torch.float64)
        return total, (cache if cache is None or left is None else left)

    def _pixel(
        self, number: int, slow: int, fast: int, left: LastRotated | None, rotate_always: bool
    ) -> tuple[Tensor, LastRotated]:
        """The sum over one pixel's samples, and the vectors that its last sample left behind."""
        options, beam = self.options, self.experiment.beam
        panel, layers = self.experiment.panels[number], options.layers_of(number)
        now = Variables(self.fresh[0] if left is None else left.abc)
        weight = beam.weight / beam.weight.mean()
        bragg = torch.zeros((), dtype=torch.float64)
        captures = []  # of the layers, at their first sub-pixel unless oversampled
        for layer in range(1 if layers is None else len(layers.edges) - 1):
            now.capture = self._capture_of_last(panel, layers, slow, fast)
            for sub_slow, sub_fast in itertools.product(range(options.oversample), repeat=2):
                along_slow = slow + sub_pixel(options, sub_slow)
                along_fast = fast + sub_pixel(options, sub_fast)
                position = sampled_point(panel, layers, layer, along_slow, along_fast)
                s1 = position / length(position)
                if now.omega is None or options.oversample_omega:
                    now.omega = solid_angle(panel, layers, position, options.point_pixel)
                if now.capture is None or options.oversample_thick:
                    now.capture = absorbed_in(panel, layers, layer, s1)
                for source in range(len(weight)):
                    photons = self._source(s1, source, now, rotate_always)
                    bragg = bragg + weight[source] * now.capture * photons
            captures.append(now.capture)
        total = self.experiment.crystal.spot_scale * bragg + self._water(layers, captures)
        if not options.oversample_omega:
            total = total * now.omega
        if not options.oversample_polar and beam.kahn_factor is not None:
            total = total * (0 if now.polar is None else now.polar)  # None: wholly cut
        # sensor layers share the photons between them: they are no further steps
        steps = len(weight) * options.oversample**2 * len(self.fresh) * len(now.abc)
        return total / steps, LastRotated(now.abc)

    def _source(self, s1: Tensor, source: int, now: Variables, rotate_always: bool) -> Tensor:
        """F_cell^2 F_latt^2, and the factors taken at every sample, over steps and domains."""
        options, total = self.options, torch.zeros((), dtype=torch.float64)
        incident = [self._incident(source, step) for step in range(len(self.fresh))]
        cut = [self._is_cut((s1 - s0) / wavelength) for s0, wavelength in incident]
        if all(cut):  # nothing is rotated either
            return total
        for step, (s0, wavelength) in enumerate(incident):
            if self.exposure.phi[step] != 0.0 or rotate_always:
                now.abc = self.fresh[step]
            if cut[step]:
                continue
            if now.polar is None or options.oversample_polar:
                now.polar = self._polarization(s1, s0)
            factor = now.polar if options.oversample_polar else 1
            for a_b_c in now.abc:  # of a mosaic domain
                total = total + self._intensity(a_b_c @ ((s1 - s0) / wavelength)) * factor
        return total * now.omega if options.oversample_omega else total

    def _is_cut(self, q: Tensor) -> bool:
        """Whether d = lambda/(2 sin theta) = 1/|q| is below d_min."""
        return bool(length(q) > 0) and bool(1 / length(q) < self.options.d_min)

    def _capture_of_last(
        self, panel: Panel, layers: Layers | None, slow: int, fast: int
    ) -> Tensor | None:
        """nanoBragg.c's defect: what every layer of a pixel captures is what the last one does."""
        if layers is None or layers.capture != "last":
            return None
        first, last = sub_pixel(self.options, 0), len(layers.edges) - 2
        deepest = sampled_point(panel, layers, last, slow + first, fast + first)
        return absorbed_in(panel, layers, last, deepest / length(deepest))

    def _water(self, layers: Layers | None, captures: list[Tensor]) -> Tensor:
        """What a pixel has of nanoBragg.c's -water: F = 2.57 e of a cube's molecules (18 g/mol,
        1e6 g/m^3), captured as one layer captures, the last, if all do like it, else as the
        sum of the layers. Where capture is oversampled, nothing is said of it."""
        cube = (self.options.water_c_um * 1e-6) ** 3
        molecules = cube * 1e6 / 18 * 6.02214179e23
        water = 2.57**2 * R_E_SQR * self.experiment.beam.fluence * molecules
        if self.options.oversample_thick:
            return water
        if layers is not None and layers.capture == "last":
            return water * captures[-1]
        return water * sum(captures)

    def _incident(self, source: int, step: int) -> tuple[Tensor, Tensor]:
        """Unit vector along the incident beam and wavelength, Angstrom, of a source at a step."""
        beam, position = self.experiment.beam, self.exposure.position[step]
        direction = at_scan_points(beam.direction, position)[source]
        return direction / length(direction), at_scan_points(beam.wavelength, position)[source]

    def _polarization(self, s1: Tensor, s0: Tensor) -> Tensor:
        """(1 + cos^2 2theta - K cos 2psi sin^2 2theta)/2, psi the azimuth from the E vector."""
        beam = self.experiment.beam
        if beam.kahn_factor is None:
            return torch.ones((), dtype=torch.float64)
        b = cross(beam.polarization_axis, s0)
        b = b / length(b)
        e = cross(s0, b)
        cos_2theta = s1 @ s0
        # cos 2psi sin^2 2theta = (cos^2 psi - sin^2 psi) sin^2 2theta
        cos_2psi_sin_sqr = (s1 @ e) ** 2 - (s1 @ b) ** 2
        return (1 + cos_2theta**2 - beam.kahn_factor * cos_2psi_sin_sqr) / 2

    def _intensity(self, hkl: Tensor) -> Tensor:
        """F_cell^2 F_latt^2 at fractional indices [3]."""
        nearest = [math.ceil(index - 0.5) for index in hkl.tolist()]
        delta = [hkl[axis] - nearest[axis] for axis in range(3)]
        f_cell = self._interpolated(hkl) if self._has_neighbours(hkl) else self._f_cell(nearest)
        return (f_cell * self._f_latt(delta)) ** 2

    def _has_neighbours(self, hkl: Tensor) -> bool:
        """Whether F_cell is interpolated: two indices from the ends of the table, or farther."""
        table = self.structure_factors
        # less the layer of default_F all round
        ends = [(low, low + size - 3) for low, size in zip(table.hkl_min, table.Fhkl.shape)]
        inside = [low + 2 <= x <= high - 2 for x, (low, high) in zip(hkl.tolist(), ends)]
        return self.options.interpolate and all(inside)

    def _interpolated(self, hkl: Tensor) -> Tensor:
        """The product of cubic polynomials in h, k and l through the 64 amplitudes around."""
        f_cell = torch.zeros((), dtype=torch.float64)
        axes = [lagrange(index) for index in hkl]
        for h, k, l in itertools.product(*axes):
            share = axes[0][h] * axes[1][k] * axes[2][l]
            f_cell = f_cell + share * self._f_cell([h, k, l])
        return f_cell

    def _f_cell(self, nearest: list[int]) -> Tensor:
        """The amplitude of a reflection: from the table, or default_F outside of it."""
        table = self.structure_factors
        at = [index - low for index, low in zip(nearest, table.hkl_min)]
        # the table has a layer of default_F all round, which starts one below hkl_min
        if all(0 <= place < size - 2 for place, size in zip(at, table.Fhkl.shape)):
            return table.Fhkl[at[0] + 1, at[1] + 1, at[2] + 1].double()
        return torch.tensor(table.default_F, dtype=torch.float64)

    def _f_latt(self, delta: list[Tensor]) -> Tensor:
        """The lattice factor (square: but for its sign) at delta = (h - h0, k - k0, l - l0)."""
        crystal = self.experiment.crystal
        n = crystal.Ncells_abc
        cells = n[0] * n[1] * n[2]
        if crystal.xtal_shape == "square":
            return slits(delta[0], n[0]) * slits(delta[1], n[1]) * slits(delta[2], n[2])
        if crystal.xtal_shape in ("gauss_star", "tophat_star"):
            from_peak = self.reciprocal @ torch.stack(delta)
            radius_sqr = (from_peak @ from_peak) * cells**2 * crystal.fudge
        else:
            radius_sqr = sum((n[axis] * delta[axis]) ** 2 for axis in range(3)) * crystal.fudge
        if crystal.xtal_shape == "round":
            return ROUND_SCALE * cells * ball(radius_sqr)
        if crystal.xtal_shape in ("gauss", "gauss_star"):
            return cells * torch.exp(-radius_sqr / GAUSS_WIDTH_SQR)
        return cells if radius_sqr < TOPHAT_RADIUS_SQR else 0 * cells


def lagrange(x: Tensor) -> dict[int, Tensor]:
    """The share of each of the four integers around x in the cubic polynomial through them."""
    below = math.floor(x.item())
    nodes = range(below - 1, below + 3)
    return {
        here: math.prod((x - other) / (here - other) for other in nodes if other != here)
        for here in nodes
    }


def slits(delta: Tensor, n: Tensor) -> Tensor:
    """sin(pi N delta)/sin(pi delta): N slits; on the peak N, and its series for the gradient."""
    if abs(math.pi * n * delta) < 1e-4:
        return n * (1 - (n**2 - 1) * (math.pi * delta) ** 2 / 6)
    return torch.sin(math.pi * n * delta) / torch.sin(math.pi * delta)


def ball(radius_sqr: Tensor) -> Tensor:
    """3 (sin x/x - cos x)/x^2 at x = pi radius: a sphere's transform; 1 on the peak."""
    x_sqr = math.pi**2 * radius_sqr
    if x_sqr < 1e-4:  # the terms cancel here: the series, whose next is -x^6/15120
        return 1 - x_sqr / 10 + x_sqr**2 / 280
    x = torch.sqrt(x_sqr)
    return 3 * (torch.sin(x) / x - torch.cos(x)) / x_sqr


def real_space_vectors(experiment: Experiment, phi: float, position: float) -> list[Tensor]:
    """a, b, c [3, 3] in the rows, Angstrom, of every domain at a step, r = R U A h or U R A h."""
    crystal, goniometer = experiment.crystal, experiment.goniometer
    rotation = (
        at_scan_points(goniometer.setting, position)
        @ rotation_about(goniometer.axis, phi)
        @ goniometer.fixed
    )
    A = at_scan_points(crystal.A, position)
    if crystal.mosaic_frame == "crystal":
        reciprocal = [rotation @ umat @ A for umat in crystal.umats]
    else:
        reciprocal = [umat @ rotation @ A for umat in crystal.umats]
    return [real_space(columns) for columns in reciprocal]


def real_space(reciprocal: Tensor) -> Tensor:
    """a, b, c in rows of a*, b*, c* in columns: a = b* x c* V."""
    a_star, b_star, c_star = reciprocal.unbind(1)
    a, b, c = cross(b_star, c_star), cross(c_star, a_star), cross(a_star, b_star)
    return torch.stack([a, b, c]) / (a_star @ a)


def rotation_about(axis: Tensor, angle: float) -> Tensor:
    """[3, 3]: the right-handed rotation by an angle, its columns the turned x, y and z."""
    radians = torch.tensor(angle, dtype=torch.float64)
    return torch.stack([turned(v, axis, radians) for v in torch.eye(3, dtype=torch.float64)], 1)


def at_scan_points(points: Tensor, position: float) -> Tensor:
    """A model [points, ...] at a position in images from the first, linear between points."""
    if len(points) == 1:
        return points[0]
    before = min(max(math.floor(position), 0), len(points) - 2)
    share = position - before
    return points[before] * (1 - share) + points[before + 1] * share
