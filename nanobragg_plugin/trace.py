"""Every intermediate of a pixel, from its position to its photons, as the simulator computed it.

The dense kernel runs the pixel with someone watching: what is recorded are the tensors that go
into the image, where that is not compiled, to the bit. Terms that the sparse kernel leaves out of
it are recorded too. In phi_carryover_mode c-parity the pixels before it are simulated as far as
they leave vectors behind.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nanobragg_plugin import carryover
from nanobragg_plugin.constants import R_E_SQR
from nanobragg_plugin.kernels import dense
from nanobragg_plugin.kernels.batches import evaluated_batches
from nanobragg_plugin.kernels.pool import in_threads
from nanobragg_plugin.kernels.samples import layer_count
from nanobragg_plugin.models import Experiment, Exposure, SimulationOptions
from nanobragg_plugin.orientation import at_positions
from nanobragg_plugin.recorder import Recorder, floats
from nanobragg_plugin.simulate import Simulator
from nanobragg_plugin.structure_factors import StructureFactors
from nanobragg_plugin.traced import Inputs, Trace

#: What is told of the options as it is.
OPTIONS = (
    "precision phi_carryover_mode oversample oversample_omega oversample_polar oversample_thick "
    "point_pixel interpolate water_c_um"
).split()


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
    options = replace(options, compile="never")
    simulator = Simulator(experiment, structure_factors, options)
    kernel, left = simulator.ready(exposure), simulator.spots_left(exposure)
    pixel = torch.tensor([slow, fast], device=experiment.panels[panel].origin.device)
    cache = _cache(kernel, panel, pixel)
    in_image = None
    if kernel.bound is not None:
        in_image, _ = _run(kernel, panel, pixel[None], cache)
    recorder = Recorder(kernel, exposure, pixel)
    kernel.watch = recorder
    answer, _ = _run(kernel, panel, pixel[None], cache)
    scale = R_E_SQR * experiment.beam.fluence
    spots_left = torch.ones_like(answer) if left is None else left[panel][slow, fast].to(answer)
    left_out = 0.0
    if in_image is not None:
        left_out = max(0.0, float(scale * (answer - in_image) * spots_left))
    samples = recorder.samples()
    photons = scale * answer * spots_left
    sums = recorder.sums(samples, photons, left_out, float(spots_left))
    return Trace(_inputs(kernel, exposure, (panel, slow, fast)), samples, sums)


def _cache(kernel: dense.Kernel, panel: int, pixel: Tensor) -> carryover.PhiCache | None:
    """The phi cache that the pixel [2] finds; None in `spec`."""
    batches, cache, _ = evaluated_batches(kernel, panel)
    for batch in batches:
        if cache is None or cache.valid:
            break
        slow, fast = batch.unbind(1)
        before = (slow < pixel[0]) | ((slow == pixel[0]) & (fast < pixel[1]))
        if before.any():
            _, cache = _run(kernel, panel, batch[before], cache)
        if not before.all():
            break
    return cache


def _run(
    kernel: dense.Kernel, panel: int, batch: Tensor, cache: carryover.PhiCache | None
) -> tuple[Tensor, carryover.PhiCache | None]:
    """The kernel's answer, with as many threads within torch as in `simulate`, so that it is the
    same to the bit."""
    (answer,) = in_threads(lambda pixels: kernel(panel, pixels, cache), [batch], kernel.abc.is_cpu)
    return answer


def _inputs(kernel: dense.Kernel, exposure: Exposure, at: tuple[int, int, int]) -> Inputs:
    experiment, options = kernel.experiment, kernel.options
    crystal, beam = experiment.crystal, experiment.beam
    panel = kernel.prepared.panels[at[0]]
    first = torch.tensor(exposure.position[:1], dtype=torch.float64, device=crystal.A.device)
    a_star, b_star, c_star = (floats(axis) for axis in at_positions(crystal.A, first)[0].T)
    return Inputs(
        *at,
        origin_mm=floats(panel.origin),
        fast_axis=floats(panel.fast),
        slow_axis=floats(panel.slow),
        normal=floats(panel.normal),
        pixel_size_mm=floats(panel.pixel_size),
        a_star_inv_ang=a_star,
        b_star_inv_ang=b_star,
        c_star_inv_ang=c_star,
        xtal_shape=crystal.xtal_shape,
        Ncells_abc=floats(kernel.ncells),
        fudge=float(kernel.fudge),
        mosaic_frame=crystal.mosaic_frame,
        mosaic_domains=kernel.abc.shape[1],
        phisteps=kernel.abc.shape[0],
        sources=len(kernel.weight),
        layers=layer_count(options.layers_of(at[0])),
        d_min_ang=options.d_min,
        kahn_factor=None if beam.kahn_factor is None else float(beam.kahn_factor),
        polarization_axis=floats(beam.polarization_axis),
        fluence_photons_per_m2=float(beam.fluence),
        r_e_sqr_m2=R_E_SQR,
        spot_scale=float(kernel.spot_scale),
        **{name: getattr(options, name) for name in OPTIONS},
    )
