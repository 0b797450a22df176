"""What the derivatives of an image cost beside the image: nanobragg.benchmark gradients=True."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nanobragg_plugin.jacobian import jacobian
from nanobragg_plugin.models import Experiment
from nanobragg_plugin.rotation import from_vector
from nanobragg_plugin.run import benchmark_device
from nanobragg_plugin.run.benchmark_cases import Work
from nanobragg_plugin.simulate import simulate
from nanobragg_plugin.structure_factors import StructureFactors

Models = tuple[Experiment, StructureFactors]
#: Sets of tensors with respect to which the gradient of a sum over all pixels is taken.
SETS = {
    "crystal": ("A",),
    "crystal, wavelength, detector": ("A", "wavelength", "origin"),
    "these, Ncells_abc, Fhkl": ("A", "wavelength", "origin", "Ncells_abc", "Fhkl"),
}
#: Numbers of parameters of the forward mode: orientation, then the lengths of a*, b*, c*, then N.
TANGENTS = (1, 3, 7)


def measure(work: Work, repeats: int) -> dict[str, Any]:
    """Best times, s, of an image alone (`value_s`), with the gradients of SETS, and with tangents,
    in turns; everything that an image needs is made anew each time."""
    device = work.experiment.crystal.A.device
    weights = torch.linspace(1, 2, work.experiment.panels[0].shape[1], device=device)
    jobs: dict[str, Callable[[], Any]] = {"value": lambda: value(work)}
    for name, names in SETS.items():
        jobs[name] = lambda names=names: gradient(work, names, weights)
    for count in TANGENTS:
        jobs[f"{count}"] = lambda count=count: tangents(work, count)
    for job in jobs.values():
        _seconds(job, device)
    best = dict.fromkeys(jobs, float("inf"))
    for _ in range(repeats):
        for name, job in jobs.items():
            best[name] = min(best[name], _seconds(job, device))
    return {
        "value_s": best["value"],
        "gradients_s": {name: best[name] for name in SETS},
        "tangents_s": {f"{count}": best[f"{count}"] for count in TANGENTS},
    }


def _seconds(job: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    job()
    benchmark_device.finish(device)
    return time.perf_counter() - start


def value(work: Work) -> Tensor:
    """The image."""
    with torch.no_grad():
        (image,) = simulate(work.experiment, work.exposure, work.structure_factors, work.options)
    return image


def gradient(work: Work, names: tuple[str, ...], weights: Tensor) -> tuple[Tensor, ...]:
    """Of a weighted sum over all pixels."""
    (experiment, structure_factors), leaves = with_leaves(work, names)
    (image,) = simulate(experiment, work.exposure, structure_factors, work.options)
    return torch.autograd.grad((image * weights).sum(), leaves)


def with_leaves(work: Work, names: tuple[str, ...]) -> tuple[Models, list[Tensor]]:
    """The models, of whose tensors those of these names want gradients."""
    leaves: list[Tensor] = []

    def leaf(name: str, tensor: Tensor) -> Tensor:
        if name not in names:
            return tensor
        leaves.append(tensor.detach().clone().requires_grad_())
        return leaves[-1]

    experiment, structure_factors = work.experiment, work.structure_factors
    crystal, beam = experiment.crystal, experiment.beam
    ncells = leaf("Ncells_abc", crystal.Ncells_abc)
    crystal = replace(crystal, A=leaf("A", crystal.A), Ncells_abc=ncells)
    beam = replace(beam, wavelength=leaf("wavelength", beam.wavelength))
    panels = tuple(replace(one, origin=leaf("origin", one.origin)) for one in experiment.panels)
    amplitudes = replace(structure_factors, Fhkl=leaf("Fhkl", structure_factors.Fhkl))
    return (replace(experiment, panels=panels, beam=beam, crystal=crystal), amplitudes), leaves


def tangents(work: Work, count: int) -> tuple[list[Tensor], list[Tensor]]:
    """The image and its derivatives with respect to so many parameters."""
    crystal = work.experiment.crystal

    def models(parameters: Tensor) -> Models:
        turn, stretch, more = torch.cat([parameters, parameters.new_zeros(7 - count)]).split(
            [3, 3, 1]
        )
        changed = replace(
            crystal,
            A=from_vector(turn) @ crystal.A @ torch.diag(1 + stretch),
            Ncells_abc=crystal.Ncells_abc * (1 + more) if count > 6 else crystal.Ncells_abc,
        )
        return replace(work.experiment, crystal=changed), work.structure_factors

    start = crystal.A.new_zeros(count)
    return jacobian(models, start, work.exposure, work.options)


def lines(run: dict[str, Any]) -> Iterator[str]:
    """What a run's `derivatives` say, as ratios to the image alone."""
    of = run["derivatives"]
    yield (
        f"{run['kernel']}, {run['threads']} threads: an image alone, made anew, "
        f"{of['value_s']:.3g} s; times that:"
    )
    for name, seconds in of["gradients_s"].items():
        yield f"  image and gradient of a sum of its pixels ({name}): {seconds / of['value_s']:.2f}"
    for count, seconds in of["tangents_s"].items():
        yield (
            f"  image and derivatives of each pixel, {count} parameters: "
            f"{seconds / of['value_s']:.2f} (1 + 0.75 k is {1 + 0.75 * int(count):.2f})"
        )
    if of["peak_mb"] is not None:
        yield f"  peak {of['peak_mb']:.0f} MB"
