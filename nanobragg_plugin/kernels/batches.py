"""A panel's pixels in batches: which are evaluated, how many at a time, and their sum."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nanobragg_plugin import carryover
from nanobragg_plugin.constants import R_E_SQR
from nanobragg_plugin.geometry import numbered_pixels, pixel_numbers
from nanobragg_plugin.kernels import compiled, dense, derivatives
from nanobragg_plugin.kernels.dense import Pixels
from nanobragg_plugin.kernels.pool import in_threads
from nanobragg_plugin.models import Panel

#: Pixels in a batch of compiled code and of the sparse kernel, which need little memory; and on
#: whatever is no CPU, which must have much to do at a time.
BATCH_PIXELS, SPARSE_PIXELS, BATCH_PIXELS_ELSEWHERE = 1 << 16, 1 << 18, 1 << 21
#: Sums over terms that are worth a thread of their own to compiled code and the sparse kernel.
SUMS_LEAST = 1 << 14
#: Bytes of a panel's sums over terms that are kept for the backward pass, at most.
REMEMBERED_BYTES = 256 << 20


def panel_image(
    kernel: dense.Kernel, panel: int, progress: Callable[[int], None] | None = None
) -> Tensor:
    model = kernel.experiment.panels[panel]
    batches, cache, dropped = evaluated_batches(kernel, panel)
    if progress is not None and dropped:
        progress(dropped)
    if not any(map(_length, batches)):
        dtype = kernel.options.index_dtype
        empty = torch.zeros(model.shape, dtype=dtype, device=kernel.abc.device)
        return R_E_SQR * kernel.experiment.beam.fluence * empty
    photons = sum_batches(kernel, panel, batches, cache, progress)
    if isinstance(batches[0], slice):
        return photons.reshape(model.shape)
    return place(model, torch.cat(batches), photons)


def _length(batch: Pixels) -> int:
    return batch.stop - batch.start if isinstance(batch, slice) else len(batch)


def evaluated_batches(
    kernel: dense.Kernel, panel: int, threads: int | None = None
) -> tuple[tuple[Pixels, ...], carryover.PhiCache | None, int]:
    """The pixels that are evaluated, in the batches in which they are; the phi cache that the
    first finds, None in `spec`; and how many pixels are left out because of the tolerance.
    threads: that the batches are shared out to; None: torch's, or, where gradients are wanted,
    one, as sums depend on what is summed at a time."""
    model, options = kernel.experiment.panels[panel], kernel.options
    steps, domains = kernel.abc.shape[:2]
    cache, pixels, at_once = None, None, max(1, options.batch_steps // (steps * domains))
    if options.phi_carryover_mode == "c-parity":
        cache = carryover.initialize_phi_cache(model.shape, domains)
    if kernel.bound is not None:
        at_once = SPARSE_PIXELS if kernel.abc.is_cpu else BATCH_PIXELS_ELSEWHERE
        with compiled.one_thread():
            pixels = kernel.candidates(panel)
    elif kernel.compiled:
        at_once = BATCH_PIXELS if kernel.abc.is_cpu else BATCH_PIXELS_ELSEWHERE
    everything = pixel_count(model)
    count = everything if pixels is None else len(pixels)
    if kernel.abc.is_cpu and (kernel.compiled or kernel.bound is not None):
        # something for each thread
        threads = threads or (1 if kernel.varies else torch.get_num_threads())
        each = -(-count // threads)
        at_once = min(at_once, max(1, each, SUMS_LEAST // kernel.sums_per_pixel))
    if pixels is None:
        if cache is None and model.mask is None and kernel.has_rays(panel):
            starts = range(0, everything, at_once)
            return tuple(slice(i, min(i + at_once, everything)) for i in starts), None, 0
        return simulated_pixels(model).split(at_once), cache, 0
    if cache is not None:  # which pixel comes first matters
        first = pixel_numbers(model, simulated_pixels(model)[:1])
        pixels = torch.cat([first, pixels]).unique()
    if cache is not None or not kernel.has_rays(panel):
        pixels = numbered_pixels(model, pixels)
    return pixels.split(at_once), cache, everything - len(pixels)


def pixel_count(panel: Panel) -> int:
    """How many pixels are to be simulated."""
    return panel.shape[0] * panel.shape[1] if panel.mask is None else int(panel.mask.sum())


def simulated_pixels(panel: Panel) -> Tensor:
    """[n, 2] (slow, fast) of the pixels to simulate, in raster order."""
    device = panel.origin.device
    if panel.mask is not None:
        return torch.nonzero(panel.mask.to(device))
    slow, fast = (torch.arange(size, device=device) for size in panel.shape)
    return torch.cartesian_prod(slow, fast)


def sum_batches(
    kernel: dense.Kernel,
    panel: int,
    batches: tuple[Pixels, ...],
    cache: carryover.PhiCache | None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Photons of all batches, [n], in their order.

    Those that fill the phi cache come first, one by one: after them it is the same for all others.
    """
    scale = R_E_SQR * kernel.experiment.beam.fluence
    sizes = [_length(batch) for batch in batches]
    few = 8 * kernel.sums_per_pixel * sum(sizes) <= REMEMBERED_BYTES
    photons, varies = None, kernel.varies
    if not (varies or kernel.is_dual):
        photons = kernel.abc.new_empty(sum(sizes), dtype=kernel.options.index_dtype)
        parts = photons.split(sizes)

    def run(number: int, cache: carryover.PhiCache | None) -> tuple[Tensor, Any]:
        if varies:  # evaluated again in the backward pass
            found, after = _checkpoint(kernel, panel, batches[number], cache, few)
        else:
            found, after = kernel(panel, batches[number], cache)
        if photons is not None:  # in its place, by each thread
            found = torch.mul(found, scale, out=parts[number])
        if progress is not None:
            progress(sizes[number])
        return found, after

    sums: list[Tensor] = []
    # d_min may leave out every sample of a batch, which then leaves the cache empty
    while cache is not None and not cache.valid and len(sums) < len(batches):
        found, cache = run(len(sums), cache)
        sums.append(found)
    rest = range(len(sums), len(batches))
    if varies:
        sums += [run(number, cache)[0] for number in rest]
    else:
        sums += in_threads(lambda number: run(number, cache)[0], rest, kernel.abc.is_cpu)
    return scale * torch.cat(sums) if photons is None else photons


def _checkpoint(
    kernel: dense.Kernel,
    panel: int,
    batch: Pixels,
    cache: carryover.PhiCache | None,
    remembers: bool,
) -> Any:
    """The kernel's answer, of which autograd remembers at most the sums over terms."""
    remembered = derivatives.Remembered() if remembers else None
    return checkpoint(kernel, panel, batch, cache, remembered, use_reentrant=False)


def place(panel: Panel, pixels: Tensor, values: Tensor) -> Tensor:
    """An image [slow, fast] of values [n] at pixels, [n, 2] or their numbers [n], 0 elsewhere."""
    if pixels.dim() == 2:
        pixels = pixel_numbers(panel, pixels)
    image = torch.zeros(math.prod(panel.shape), dtype=values.dtype, device=values.device)
    if values.requires_grad:
        return image.index_put((pixels,), values).reshape(panel.shape)
    return image.index_copy_(0, pixels, values).reshape(panel.shape)
