"""Expected photons of an image: the physics in order, one named step a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nanobragg_plugin import carryover
from nanobragg_plugin.constants import R_E_SQR
from nanobragg_plugin.kernels import dense, sparse
from nanobragg_plugin.models import Experiment, Exposure, Panel, SimulationOptions
from nanobragg_plugin.structure_factors import StructureFactors


def simulate(
    experiment: Experiment,
    exposure: Exposure,
    structure_factors: StructureFactors,
    options: SimulationOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """Expected photons of one image, Bragg and `water_c_um`: [slow, fast] a panel, 0 where masked.

    Differentiable in every tensor of the experiment and in the structure factors; the memory
    is bounded by `options.batch_steps`, in the backward pass too, which evaluates each batch
    again. progress is called with the number of pixels of each batch that is done, from any thread.
    """
    options = SimulationOptions() if options is None else options
    kernel = dense.Kernel(experiment, exposure, structure_factors, options)
    return [_panel_image(kernel, panel, progress) for panel in range(len(experiment.panels))]


def simulate_panel(
    experiment: Experiment,
    panel: int,
    exposure: Exposure,
    structure_factors: StructureFactors,
    options: SimulationOptions,
) -> Tensor:
    """Expected Bragg photons [slow, fast] of one panel of one image."""
    return _panel_image(dense.Kernel(experiment, exposure, structure_factors, options), panel)


def _panel_image(
    kernel: dense.Kernel, panel: int, progress: Callable[[int], None] | None = None
) -> Tensor:
    model = kernel.experiment.panels[panel]
    scale = R_E_SQR * kernel.experiment.beam.fluence
    batches, cache, dropped = evaluated_batches(kernel, panel)
    if progress is not None and dropped:
        progress(dropped)
    pixels = torch.cat(batches)
    if len(pixels) == 0:
        dtype = kernel.options.index_dtype
        return scale * torch.zeros(model.shape, dtype=dtype, device=scale.device)
    return place(model, pixels, scale * sum_batches(kernel, panel, batches, cache, progress))


def evaluated_batches(
    kernel: dense.Kernel, panel: int
) -> tuple[tuple[Tensor, ...], carryover.PhiCache | None, int]:
    """The pixels that are evaluated, in the batches in which they are; the phi cache that the
    first finds, None in `spec`; and how many pixels are left out because of the tolerance."""
    model, options = kernel.experiment.panels[panel], kernel.options
    steps, domains = kernel.abc.shape[:2]
    pixels, cache = simulated_pixels(model), None
    everything = len(pixels)
    # the carryover depends on which pixel comes first: there all are needed
    if options.phi_carryover_mode == "c-parity":
        cache = carryover.initialize_phi_cache(model.shape, domains)
    elif sparse.has_bound(kernel, options.tolerance):
        scale = R_E_SQR * kernel.experiment.beam.fluence * kernel.spot_scale
        pixels = active_pixels(kernel, panel, pixels, float(scale))
    batches = pixel_batches(pixels, steps * domains, options.batch_steps)
    return batches, cache, everything - len(pixels)


def simulated_pixels(panel: Panel) -> Tensor:
    """[n, 2] (slow, fast) of the pixels to simulate, in raster order."""
    device = panel.origin.device
    if panel.mask is not None:
        return torch.nonzero(panel.mask.to(device))
    slow, fast = (torch.arange(size, device=device) for size in panel.shape)
    return torch.cartesian_prod(slow, fast)


def pixel_batches(pixels: Tensor, steps: int, batch_steps: int) -> tuple[Tensor, ...]:
    """Runs of pixels whose samples are at most `batch_steps` at a time: a function of the
    image and the options alone, so that results do not depend on the machine's load."""
    return pixels.split(max(1, batch_steps // steps))


def sum_batches(
    kernel: dense.Kernel,
    panel: int,
    batches: tuple[Tensor, ...],
    cache: carryover.PhiCache | None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """The kernel's sums of all batches, [n], in their order.

    Those that fill the phi cache come first, one by one: after them it is the same for all others.
    """

    def run(some: tuple[Tensor, ...], cache: carryover.PhiCache | None) -> list[Any]:
        if torch.is_grad_enabled():  # evaluated again in the backward pass, not remembered
            return [
                done(checkpoint(kernel, panel, one, cache, use_reentrant=False)) for one in some
            ]
        return in_threads(lambda one: done(kernel(panel, one, cache)), some)

    def done(answer: Any) -> Any:
        if progress is not None:
            progress(len(answer[0]))
        return answer

    sums = []
    # d_min may leave out every sample of a batch, which then leaves the cache empty
    while cache is not None and not cache.valid and len(sums) < len(batches):
        ((first, cache),) = run(batches[len(sums) : len(sums) + 1], cache)
        sums.append(first)
    return torch.cat([*sums, *(rest for rest, _ in run(batches[len(sums) :], cache))])


def active_pixels(kernel: dense.Kernel, panel: int, pixels: Tensor, scale: float) -> Tensor:
    """The pixels [m, 2] among [n, 2] that are not known to have less than the tolerance."""
    tolerance = kernel.options.tolerance

    def active(chunk: Tensor) -> Tensor:
        return sparse.active_pixels(kernel, panel, chunk, scale, tolerance)

    chunks = pixels.split(kernel.options.batch_steps)
    return torch.cat(in_threads(active, chunks)) if chunks else pixels


def in_threads(work: Callable[[Tensor], Any], items: Sequence[Tensor]) -> list[Any]:
    """`work` of every item, in their order, without gradients.

    On a CPU each thread takes an item of its own, with one thread within torch: operations that
    are split among threads wait for the slowest at every step, which on a busy machine is
    several times slower, and long sums would depend on the number of threads.
    """
    threads = torch.get_num_threads()

    def alone(item: Tensor) -> Any:
        with torch.no_grad():
            return work(item)

    if threads == 1 or not items or not items[0].is_cpu:
        return [alone(item) for item in items]
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        return list(pool.map(alone, items))
    finally:
        pool.shutdown(cancel_futures=True)  # interrupted, the rest of the image is not waited for
        torch.set_num_threads(threads)


def place(panel: Panel, pixels: Tensor, values: Tensor) -> Tensor:
    """An image [slow, fast] of values [n] at pixels [n, 2], 0 elsewhere."""
    image = torch.zeros(panel.shape, dtype=values.dtype, device=values.device)
    return image.index_put((pixels[:, 0], pixels[:, 1]), values)
