"""Expected photons of an image: the physics in order, one named step a line."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nanobragg_plugin import background, carryover, damage
from nanobragg_plugin.background import Material
from nanobragg_plugin.constants import R_E_SQR
from nanobragg_plugin.curve import Curve
from nanobragg_plugin.geometry import numbered_pixels, pixel_numbers
from nanobragg_plugin.kernels import amorphous, compiled, dense, derivatives, diffuse, sparse
from nanobragg_plugin.kernels.dense import Pixels
from nanobragg_plugin.kernels.pool import in_threads
from nanobragg_plugin.kernels.prepared import Prepared
from nanobragg_plugin.models import Experiment, Exposure, Panel, SimulationOptions
from nanobragg_plugin.orientation import incident
from nanobragg_plugin.sampling import steps_per_pixel, why_not_sparse
from nanobragg_plugin.structure_factors import StructureFactors

#: Steps (of a pixel, a sample and a term) that a job must have to be compiled for: they take some
#: ten seconds otherwise, and compiling takes twenty, once on a machine.
COMPILE_STEPS = 100_000_000
#: The same of a job with gradients, for which there is more to compile.
COMPILE_STEPS_GRADIENTS = 500_000_000
#: Pixels in a batch of compiled code and of the sparse kernel, which need little memory; and on
#: whatever is no CPU, which must have much to do at a time.
BATCH_PIXELS, SPARSE_PIXELS, BATCH_PIXELS_ELSEWHERE = 1 << 16, 1 << 18, 1 << 21
#: Pixels that are worth a thread of their own to the sparse kernel.
SPARSE_PIXELS_LEAST = 1 << 14
#: Bytes of a panel's sums over terms that are kept for the backward pass, at most.
REMEMBERED_BYTES = 256 << 20
#: Steps that the sparse kernel could do while it tests and fetches one that it keeps (measured).
SPARSE_COST = 2.5


class Simulator:
    """Images of one experiment: what they share is made once.

    images: how many there will be, which decides whether it pays to compile.
    """

    def __init__(
        self,
        experiment: Experiment,
        structure_factors: StructureFactors,
        options: SimulationOptions | None = None,
        images: int = 1,
    ) -> None:
        self.experiment, self.structure_factors = experiment, structure_factors
        self.options = SimulationOptions() if options is None else options
        self.images = images
        self.prepared = Prepared(experiment, structure_factors, self.options)
        self.choice: Choice | None = None
        self._around: dict[str, tuple[Any, list[Tensor]]] = {}

    def choose(self, exposure: Exposure, fluence: float | Tensor | None = None) -> Choice:
        """The kernel, chosen by the first exposure that it is asked for, or that is simulated."""
        return self._choice(self._kernel(exposure, fluence))

    def _choice(self, kernel: dense.Kernel, slopes: tuple[bool, bool] | None = None) -> Choice:
        if self.choice is None:
            self.choice = choose(kernel, self.images, slopes or kernel.slopes)
        return self.choice

    def image(
        self,
        exposure: Exposure,
        fluence: float | Tensor | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Tensor]:
        """Expected photons of one image, as `simulate`; fluence: photons/m^2 in place of the
        experiment's."""
        panels = range(len(self.experiment.panels))
        kernel = self.ready(exposure, fluence)
        images = [panel_image(kernel, panel, progress) for panel in panels]
        spots = self.spots_left(exposure)
        if spots is not None:
            images = [image * left.to(image) for image, left in zip(images, spots)]
        if self.experiment.crystal.diffuse is not None:
            images = [a + b.to(a) for a, b in zip(images, self._diffuse(exposure, fluence))]
        return images

    def spots_left(self, exposure: Exposure) -> list[Tensor] | None:
        """The part of the spots' photons [slow, fast] a panel that radiation damage and correlated
        displacements leave; None: all."""
        left = self._undamaged(exposure)
        if self.experiment.crystal.diffuse is None:
            return left
        panels = range(len(self.experiment.panels))
        still = [diffuse.spots_left(self.experiment, panel, exposure) for panel in panels]
        return still if left is None else [a * b for a, b in zip(left, still)]

    def _undamaged(self, exposure: Exposure) -> list[Tensor] | None:
        """The part of the crystal's photons that radiation damage leaves; None: all."""
        beam, damaged = self.experiment.beam, self.experiment.crystal.damage
        if damaged is None:
            return None

        def make() -> list[Tensor]:
            return [damage.stol_sqr(panel, beam, exposure) for panel in self.experiment.panels]

        known = make() if torch.is_grad_enabled() else self._made_once("stol", None, make)
        return [damage.part_left(damaged, exposure, stol_sqr) for stol_sqr in known]

    def _diffuse(self, exposure: Exposure, fluence: float | Tensor | None) -> list[Tensor]:
        """Expected photons [slow, fast] a panel of diffuse scattering."""
        experiment = self._lit(fluence)
        of = exposure, self.structure_factors.to(dtype=experiment.crystal.A.dtype), self.options
        panels = range(len(experiment.panels))
        images = [diffuse.scattered(experiment, panel, *of) for panel in panels]
        left = self._undamaged(exposure)
        return images if left is None else [a * b for a, b in zip(images, left)]

    @torch.no_grad()
    def scattered(self, exposure: Exposure, materials: tuple[Material, ...]) -> list[Tensor]:
        """Expected photons that materials in the beam scatter, [slow, fast] a panel, of one photon
        of the beam; made once where the beam stays."""

        def make() -> list[Tensor]:
            panels = range(len(self.experiment.panels))
            of = exposure, materials, self.options
            return [amorphous.scattered(self.experiment, panel, *of) for panel in panels]

        return self._made_once("scattered", materials, make)

    @torch.no_grad()
    def measured(self, exposure: Exposure, profile: Curve) -> list[Tensor]:
        """Photons of a measured profile, [slow, fast] a panel; made once where the beam stays."""

        def make() -> list[Tensor]:
            of = exposure, profile, self.options
            panels = range(len(self.experiment.panels))
            return [amorphous.measured(self.experiment, panel, *of) for panel in panels]

        return self._made_once("measured", profile, make)

    @torch.no_grad()
    def past_stop(self, exposure: Exposure, two_theta: float) -> list[Tensor]:
        """`background.beyond` of every panel; made once where the beam stays."""

        def make() -> list[Tensor]:
            s0_unit = incident(self.experiment.beam, exposure)[0].mean((0, 1))
            return [background.beyond(one, s0_unit, two_theta) for one in self.experiment.panels]

        return self._made_once("past stop", two_theta, make)

    def _made_once(self, name: str, of: Any, make: Callable[[], list[Tensor]]) -> list[Tensor]:
        beam = self.experiment.beam
        stays = len(beam.direction) == len(beam.wavelength) == 1
        if not stays or name not in self._around or self._around[name][0] is not of:
            self._around[name] = of, make()
        return self._around[name][1]

    def ready(
        self,
        exposure: Exposure,
        fluence: float | Tensor | None = None,
        slopes: tuple[bool, bool] | None = None,
    ) -> dense.Kernel:
        """The kernel of an image; slopes: for which derivatives, if not for those that its tensors
        require."""
        kernel = self._kernel(exposure, fluence)
        choice = self._choice(kernel, slopes)
        kernel.compiled = choice.compiled
        if choice.kernel == "sparse":
            kernel.bound = kernel.make_bound(choice.compiled)
        if self.images > 1 and not kernel.rays_vary:
            kernel.keep_rays()
        return kernel

    def _kernel(self, exposure: Exposure, fluence: float | Tensor | None) -> dense.Kernel:
        return dense.Kernel(
            self._lit(fluence), exposure, self.structure_factors, self.options, self.prepared
        )

    def _lit(self, fluence: float | Tensor | None) -> Experiment:
        """The experiment with another fluence, if one is given."""
        experiment = self.experiment
        if fluence is None:
            return experiment
        like = experiment.beam.fluence
        fluence = torch.as_tensor(fluence, dtype=like.dtype, device=like.device)
        return replace(experiment, beam=replace(experiment.beam, fluence=fluence))


def simulate(
    experiment: Experiment,
    exposure: Exposure,
    structure_factors: StructureFactors,
    options: SimulationOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """Expected photons of one image, of the crystal and `water_c_um`: [slow, fast] a panel, 0 where
    masked.

    Differentiable in every tensor of the experiment and in the structure factors; the memory
    is bounded by `options.batch_steps`, in the backward pass too, which evaluates each batch
    again. progress is called with the number of pixels of each batch that is done, from any thread.
    """
    return Simulator(experiment, structure_factors, options).image(exposure, progress=progress)


def simulate_panel(
    experiment: Experiment,
    panel: int,
    exposure: Exposure,
    structure_factors: StructureFactors,
    options: SimulationOptions,
) -> Tensor:
    """`simulate` of one panel, [slow, fast]."""
    alone = replace(experiment, panels=(experiment.panels[panel],))
    options = replace(options, layers=(options.layers_of(panel),))
    return simulate(alone, exposure, structure_factors, options)[0]


@dataclass(frozen=True)
class Choice:
    """kernel: `dense` or `sparse`; compiled; steps: of all pixels, samples, terms and images; kept:
    the share of them that the sparse kernel would evaluate, by a sample of pixels; None: it cannot
    be used."""

    kernel: str
    compiled: bool
    steps: int
    kept: float | None

    def __str__(self) -> str:
        words = f"{self.kernel}{', compiled' if self.compiled else ''}; {self.steps:.3g} steps"
        if self.kept is None:
            return words
        evaluates = "evaluates" if self.kernel == "sparse" else "would evaluate"
        return f"{words}, of which sparse {evaluates} about {100 * self.kept:.2g} %"


@torch.no_grad()
def choose(kernel: dense.Kernel, images: int, slopes: tuple[bool, bool] | None = None) -> Choice:
    """What an image like this one is simulated with; compiles it if that pays. slopes: see
    `dense.Kernel.compile`."""
    options = kernel.options
    pixels = sum(map(pixel_count, kernel.experiment.panels))
    a_pixel = steps_per_pixel(kernel.experiment, options, len(kernel.abc))
    steps = images * pixels * a_pixel
    kept = None
    refusal = why_not_sparse(kernel.experiment, options)
    if options.kernel == "sparse" and refusal is not None:
        raise ValueError(f"kernel sparse can leave nothing out: {refusal}")
    if options.kernel != "dense" and refusal is None:
        with compiled.one_thread():
            kept = sparse.kept_share(kernel.make_bound(), kernel.trees(), kernel.experiment.panels)
    name = "dense"
    if kept is not None and (options.kernel == "sparse" or SPARSE_COST * kept < 1):
        name = "sparse"
    least = COMPILE_STEPS if slopes is None else COMPILE_STEPS_GRADIENTS
    wanted = options.compile == "always" or (
        options.compile == "auto"
        and (slopes is None or kernel.has_slopes)
        and steps * (kept + 0.02 if name == "sparse" else 1) >= least
    )
    return Choice(name, wanted and kernel.compile(name == "sparse", slopes), steps, kept)


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
    kernel: dense.Kernel, panel: int
) -> tuple[tuple[Pixels, ...], carryover.PhiCache | None, int]:
    """The pixels that are evaluated, in the batches in which they are; the phi cache that the
    first finds, None in `spec`; and how many pixels are left out because of the tolerance."""
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
    if kernel.abc.is_cpu:  # something for each thread
        each = -(-len(pixels) // torch.get_num_threads())
        at_once = min(at_once, max(each, SPARSE_PIXELS_LEAST))
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
