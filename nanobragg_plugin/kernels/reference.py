"""The reference kernel: nanoBragg's sum over samples in plain loops, in float64.

This is the specification. Every other kernel is tested against it, values and gradients, and
it shares no helper with them: whoever wants to know what is computed reads this file alone.
Detector in mm, crystal and beam in Angstrom, angles in radians, vectors in the laboratory
frame. Tensors all the way, so that autograd follows. Slow: for tests only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanobragg_plugin.constants import GAUSS_WIDTH_SQR, ROUND_SCALE, TOPHAT_RADIUS_SQR
from nanobragg_plugin.models import Experiment, Exposure, Layers, Panel, SimulationOptions
from nanobragg_plugin.structure_factors import StructureFactors


@dataclass(frozen=True)
class LastRotated:
    """What the C program's variables a, b, c hold after a sample: `abc[domain]` [3, 3], Angstrom.

    nanoBragg.c turns the cell only `if (phi != 0.0)` and never resets it, so that a step of
    phi exactly 0 sees the vectors of whatever step was evaluated before it.
    """

    abc: list[Tensor]


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

        The sum is F_cell^2 F_latt^2 omega polar capture weight, divided by the number of
        steps; times r_e^2 fluence spot_scale it is expected photons. Without a cache every
        step is rotated freshly (`spec`). With one (`c-parity`) nanoBragg.c is emulated: hand
        in what the call before returned, or any other object where the run begins.
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
    ) -> tuple[Tensor, LastRotated | None]:
        """The sum over one pixel's samples, and the vectors that its last sample left behind."""
        options, beam = self.options, self.experiment.beam
        panel, layers = self.experiment.panels[number], options.layers_of(number)
        abc = self.fresh[0] if left is None else left.abc
        weight = beam.weight / beam.weight.mean()
        # sensor layers share the photons between them: they are no further steps
        steps = len(weight) * options.oversample**2 * len(self.exposure.phi) * len(abc)
        total = torch.zeros((), dtype=torch.float64)
        # one value a pixel (a layer, for capture), that of the first sample, unless oversampled
        omega = polar = None
        n_layers = 1 if layers is None else len(layers.edges) - 1
        for layer in range(n_layers):
            capture = None
            if layers is not None and layers.capture == "last":  # nanoBragg.c's defect
                first = 0.5 / options.oversample
                deepest = point_in_sensor(panel, layers, n_layers - 1, slow + first, fast + first)
                capture = absorbed_in(panel, layers, n_layers - 1, deepest / length(deepest))
            for sub_slow in range(options.oversample):
                for sub_fast in range(options.oversample):
                    along_slow = slow + (sub_slow + 0.5) / options.oversample
                    along_fast = fast + (sub_fast + 0.5) / options.oversample
                    position = point_in_sensor(panel, layers, layer, along_slow, along_fast)
                    s1 = position / length(position)
                    if omega is None or options.oversample_omega:
                        omega = solid_angle(panel, layers, position, options.point_pixel)
                    if capture is None or options.oversample_thick:
                        capture = absorbed_in(panel, layers, layer, s1)
                    for source in range(len(weight)):
                        for step, phi in enumerate(self.exposure.phi):
                            s0, wavelength = self._incident(source, step)
                            q = (s1 - s0) / wavelength
                            if polar is None or options.oversample_polar:
                                polar = self._polarization(s1, s0)
                            if phi != 0.0 or rotate_always:
                                abc = self.fresh[step]
                            factor = weight[source] * omega * polar * capture
                            for a_b_c in abc:  # of a mosaic domain
                                total = total + self._intensity(a_b_c @ q) * factor
        return total / steps, LastRotated(abc)

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
        return (self._f_cell(nearest) * self._f_latt(delta)) ** 2

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
    columns = []
    for v in torch.eye(3, dtype=torch.float64):
        turned = v * math.cos(angle) + cross(axis, v) * math.sin(angle)
        columns.append(turned + axis * (axis @ v) * (1 - math.cos(angle)))
    return torch.stack(columns, 1)


def at_scan_points(points: Tensor, position: float) -> Tensor:
    """A model [points, ...] at a position in images from the first, linear between points."""
    if len(points) == 1:
        return points[0]
    before = min(max(math.floor(position), 0), len(points) - 2)
    share = position - before
    return points[before] * (1 - share) + points[before + 1] * share


def point_in_sensor(
    panel: Panel, layers: Layers | None, layer: int, slow: float, fast: float
) -> Tensor:
    """The sampled point [3] mm of pixel coordinates (a pixel's centre at +0.5) in a layer."""
    x, y = fast * panel.pixel_size[0], slow * panel.pixel_size[1]
    surface = panel.origin + x * panel.fast + y * panel.slow
    if layers is None:
        return surface
    top, bottom = layers.edges[layer], layers.edges[layer + 1]
    if layers.sampling == "start":
        depth = top
    elif layers.sampling == "midpoint":
        depth = (top + bottom) / 2
    else:  # absorption: the mean of z over exp(-z mu/rho) between top and bottom
        rate = panel.mu / cos_incidence(panel, surface / length(surface))
        at_top, at_bottom = torch.exp(-top * rate), torch.exp(-bottom * rate)
        depth = 1 / rate + (top * at_top - bottom * at_bottom) / (at_top - at_bottom)
    return surface + depth * normal(panel)


def solid_angle(panel: Panel, layers: Layers | None, position: Tensor, point_pixel: bool) -> Tensor:
    """p_fast p_slow D/R^3, D the distance of the plane at the sample's depth (nanoBragg.c, hence
    `start`: of the panel's surface); a point: 1/R^2, R in metres."""
    if point_pixel:
        return 1 / (length(position) / 1000) ** 2
    at_surface = layers is None or layers.sampling == "start"
    plane = (panel.origin if at_surface else position) @ normal(panel)
    return panel.pixel_size[0] * panel.pixel_size[1] * plane / length(position) ** 3


def absorbed_in(panel: Panel, layers: Layers | None, layer: int, s1: Tensor) -> Tensor:
    """The fraction of photons along s1 that is absorbed between a layer's top and bottom."""
    if layers is None:
        return torch.ones((), dtype=torch.float64)
    rate = panel.mu / cos_incidence(panel, s1)
    return torch.exp(-layers.edges[layer] * rate) - torch.exp(-layers.edges[layer + 1] * rate)


def cos_incidence(panel: Panel, s1: Tensor) -> Tensor:
    """rho = |s1 . n|."""
    return (s1 @ normal(panel)).abs()


def normal(panel: Panel) -> Tensor:
    """The panel's unit normal, away from the crystal."""
    n = cross(panel.fast, panel.slow)
    n = n / length(n)
    return n if panel.origin @ n >= 0 else -n


def length(v: Tensor) -> Tensor:
    """|v|."""
    return torch.sqrt(v @ v)


def cross(u: Tensor, v: Tensor) -> Tensor:
    """u x v of [3]."""
    x = u[1] * v[2] - u[2] * v[1]
    y = u[2] * v[0] - u[0] * v[2]
    return torch.stack([x, y, u[0] * v[1] - u[1] * v[0]])
