"""Expected photons of an image: the physics in order, one named step a line."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nanobragg_plugin import carryover
from nanobragg_plugin.constants import R_E_SQR
from nanobragg_plugin.kernels import dense
from nanobragg_plugin.models import Experiment, Exposure, Panel, SimulationOptions
from nanobragg_plugin.structure_factors import StructureFactors


def simulate(
    experiment: Experiment,
    exposure: Exposure,
    structure_factors: StructureFactors,
    options: SimulationOptions | None = None,
) -> list[Tensor]:
    """Expected Bragg photons of one image: a tensor [slow, fast] a panel, 0 where masked.

    Differentiable in every tensor of the experiment and in the structure factors; the memory
    is bounded by `options.batch_steps`, in the backward pass too, which evaluates each batch
    again.
    """
    options = SimulationOptions() if options is None else options
    return [
        simulate_panel(experiment, panel, exposure, structure_factors, options)
        for panel in range(len(experiment.panels))
    ]


def simulate_panel(
    experiment: Experiment,
    panel: int,
    exposure: Exposure,
    structure_factors: StructureFactors,
    options: SimulationOptions,
) -> Tensor:
    """Expected Bragg photons [slow, fast] of one panel of one image."""
    model = experiment.panels[panel]
    kernel = dense.Kernel(experiment, exposure, structure_factors, options)
    domains = len(experiment.crystal.umats)
    cache = None
    if options.phi_carryover_mode == "c-parity":
        cache = carryover.initialize_phi_cache(model.shape, domains)
    steps = len(exposure.phi) * domains
    pixels = simulated_pixels(model)
    sums = []
    for batch in pixel_batches(pixels, steps, options.batch_steps):
        summed, cache = _recomputed(kernel, panel, batch, cache)
        sums.append(summed)
    scale = R_E_SQR * experiment.beam.fluence * experiment.crystal.spot_scale
    return place(model, pixels, torch.cat(sums) * scale) if sums else place(model, pixels, None)


def simulated_pixels(panel: Panel) -> Tensor:
    """[n, 2] (slow, fast) of the pixels to simulate, in raster order."""
    device = panel.origin.device
    if panel.mask is not None:
        return torch.nonzero(panel.mask.to(device))
    slow, fast = (torch.arange(size, device=device) for size in panel.shape)
    return torch.cartesian_prod(slow, fast)


def pixel_batches(pixels: Tensor, steps: int, batch_steps: int) -> Iterator[Tensor]:
    """Runs of pixels whose samples are at most `batch_steps` at a time: a function of the
    image and the options alone, so that results do not depend on the machine's load."""
    yield from pixels.split(max(1, batch_steps // steps)) if len(pixels) else ()


def place(panel: Panel, pixels: Tensor, values: Tensor | None) -> Tensor:
    """An image [slow, fast] of values [n] at pixels [n, 2], 0 elsewhere."""
    if values is None:
        return torch.zeros(panel.shape, dtype=panel.origin.dtype, device=panel.origin.device)
    image = torch.zeros(panel.shape, dtype=values.dtype, device=values.device)
    return image.index_put((pixels[:, 0], pixels[:, 1]), values)


def _recomputed(
    kernel: dense.Kernel, panel: int, batch: Tensor, cache: carryover.PhiCache | None
) -> tuple[Tensor, carryover.PhiCache | None]:
    """The kernel's answer, evaluated again in the backward pass instead of remembered."""
    if not torch.is_grad_enabled():
        return kernel(panel, batch, cache)
    return checkpoint(kernel, panel, batch, cache, use_reentrant=False)
