"""Which pixels can matter: those that some sample may bring within reach of a reflection.

Shapes of domain that end by themselves, gauss and tophat (and their `_star`), leave most pixels
of an image without a photon. A pixel is dropped only if a bound says that it has less than
`tolerance` photons; the others are left to the dense kernel, so that their values and gradients
are its own.

The bound. In units of N h (N the cells of a domain along each axis) F_latt falls with the
distance from the nearest lattice point, and that distance changes by no more than N h does.
One sample for each phi step, at the pixel's centre, gives a distance; N h of all other samples of
that step lie within rho = a |q| + b |dq| of it: a the largest norm of the difference between a
domain's vectors and the mean's, b the norm of these, |dq| what sub-pixels, sensor layers and
sources make of q. A pixel whose every distance exceeds rho + r_cut is dropped, where r_cut is
the distance at which the strongest reflection of the table gives `tolerance` photons.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanobragg_plugin.constants import GAUSS_WIDTH_SQR, TOPHAT_RADIUS_SQR
from nanobragg_plugin.corrections import layer_depth
from nanobragg_plugin.geometry import lab_position, unit
from nanobragg_plugin.kernels import dense
from nanobragg_plugin.models import Panel

#: Shapes whose factor is a function of |N dh| that ends.
SHAPES = ("gauss", "tophat", "gauss_star", "tophat_star")


def has_bound(kernel: dense.Kernel, tolerance: float) -> bool:
    """Whether pixels can be dropped at all: not where a pixel far from every reflection has
    photons, nor where nothing here bounds them (cubic polynomials overshoot the amplitudes)."""
    experiment, options = kernel.experiment, kernel.options
    if options.interpolate or options.water_c_um > 0:
        return False
    if any(panel.curved is not None for panel in experiment.panels):
        return False
    shape = experiment.crystal.xtal_shape
    return tolerance > 0 and shape in SHAPES and float(kernel.fudge) > 0


@torch.no_grad()
def active_pixels(
    kernel: dense.Kernel, panel: int, pixels: Tensor, scale: float, tolerance: float
) -> Tensor:
    """The pixels [m, 2] among [n, 2] (slow, fast) that may have `tolerance` expected photons or
    more. scale: r_e^2 fluence spot_scale. Of a kernel that `has_bound`."""
    return pixels[_active(kernel, panel, pixels, scale, tolerance)]


def _active(
    kernel: dense.Kernel, number: int, pixels: Tensor, scale: float, tolerance: float
) -> Tensor:
    """[n] bool."""
    panel = dense.in_dtype(kernel.experiment.panels[number], kernel.options)
    slow, fast = (pixels[:, axis].to(panel.origin.dtype) + 0.5 for axis in (0, 1))
    surface = lab_position(panel, slow, fast)
    low, high = _depths(kernel, number, panel, surface)
    s1_unit, distance = unit(surface + ((low + high) / 2)[:, None] * panel.normal)
    # how far samples lie from this one along the panel, and along its normal
    across = torch.linalg.vector_norm(panel.pixel_size) / 2 * (1 - 1 / kernel.options.oversample)
    along = (high - low) / 2
    nearest = distance - across - along  # no sample is nearer to the crystal
    sine = (1 - (s1_unit @ panel.normal) ** 2).clamp(min=0).sqrt() + across / nearest
    off_centre = (across + along * sine) / nearest

    wavenumber = 1 / kernel.wavelengths  # [steps or 1, sources]
    s0 = kernel.incident * wavenumber[..., None]
    wavenumber = wavenumber.expand(s0.shape[:2])  # either may change with the steps
    mean_wavenumber, mean_s0 = wavenumber.mean(1), s0.mean(1)
    spread = (wavenumber - mean_wavenumber[:, None]).abs().amax()
    spread = spread + torch.linalg.vector_norm(s0 - mean_s0[:, None], dim=-1).amax()
    dq = off_centre * wavenumber.amax() + spread

    ncells = kernel.ncells.to(kernel.abc.dtype)
    vectors = kernel.abc * ncells[:, None]  # N h of q is their product
    mean = vectors.mean(1)
    a = torch.linalg.matrix_norm(vectors - mean[:, None], ord=2).amax()
    b = torch.linalg.matrix_norm(mean, ord=2).amax()
    reach = _cut(kernel, panel, nearest, scale, tolerance)
    active = torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
    for step in range(len(mean)):
        beam = step if len(mean_s0) > 1 else 0
        q = s1_unit * mean_wavenumber[beam] - mean_s0[beam]
        x = q @ (mean[step] / ncells[:, None]).T
        away = torch.linalg.vector_norm((x - x.round()) * ncells, dim=-1)
        q_length = torch.linalg.vector_norm(q, dim=-1) + dq
        active |= ~(away > reach + a * q_length + b * dq)  # what is not a number stays
    return active


def _depths(
    kernel: dense.Kernel, number: int, panel: Panel, surface: Tensor
) -> tuple[Tensor, Tensor]:
    """The least and greatest depth [n], mm, at which the sensor below points [n, 3] is sampled,
    with a hundredth of its thickness to spare for what changes within a pixel."""
    layers = kernel.options.layers_of(number)
    if layers is None:
        zero = torch.zeros(len(surface), dtype=surface.dtype, device=surface.device)
        return zero, zero
    cosine = unit(surface)[0] @ panel.normal
    spare = 0.01 * layers.edges[-1].to(surface.dtype)
    first = layer_depth(layers, 0, panel.mu, cosine)
    last = layer_depth(layers, len(layers.edges) - 2, panel.mu, cosine)
    return first - spare, last + spare


def _cut(
    kernel: dense.Kernel, panel: Panel, nearest: Tensor, scale: float, tolerance: float
) -> Tensor:
    """|N dh| beyond which even the strongest reflection gives less than `tolerance` photons."""
    shape = kernel.experiment.crystal.xtal_shape
    fudge = kernel.fudge.to(nearest.dtype)
    if shape.endswith("_star"):
        fudge = fudge * _least_stretch(kernel).to(nearest.dtype)
    if shape.startswith("tophat"):
        return (TOPHAT_RADIUS_SQR / fudge).sqrt()
    # omega <= p^2 D'/R^3 <= p^2/R^2; polarization and the layers' sum of captures are <= 1
    omega = nearest**-2 * (1e6 if kernel.options.point_pixel else panel.pixel_size.prod())
    strongest = kernel.strongest.to(nearest.dtype)
    peak = scale * omega * (strongest * kernel.ncells.to(nearest.dtype).prod()) ** 2
    return (GAUSS_WIDTH_SQR / 2 / fudge * (peak / tolerance).log().clamp(min=0)).sqrt()


def _least_stretch(kernel: dense.Kernel) -> Tensor:
    """The least of (Na Nb Nc |dr*|)^2 / |N dh|^2, which the `_star` shapes have in place of 1: an
    eigenvalue of the metric in units of N h."""
    ncells = kernel.ncells.double()
    metric = kernel.metric.double() / torch.outer(ncells, ncells)
    return torch.linalg.eigvalsh(metric)[0] * ncells.prod() ** 2
