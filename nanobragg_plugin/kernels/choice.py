"""Which kernel makes an image, and whether it is worth compiling."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nanobragg_plugin.kernels import compiled, dense, sparse
from nanobragg_plugin.kernels.batches import pixel_count
from nanobragg_plugin.sampling import steps_per_pixel, why_not_sparse

#: Steps (of a pixel, a sample and a term) that a job must have to be compiled for: they take some
#: ten seconds otherwise, and compiling takes twenty, once on a machine.
COMPILE_STEPS = 100_000_000
#: The same of a job with gradients, for which there is more to compile.
COMPILE_STEPS_GRADIENTS = 500_000_000
#: Steps that the sparse kernel could do while it tests and fetches one that it keeps (measured).
SPARSE_COST = 2.5


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
