"""Small crystals on whose peaks there are pixels, for tests of gradients and tangents; their
parameters, and what they are compared by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from sparse_models import Case, Model, build
from torch import Tensor

from nanobragg_plugin import mosaic, simulate, structure_factors
from nanobragg_plugin.rotation import from_vector

#: Of the Ewald sphere's points, those where the panels of `on_peaks` are; and which reflections.
DIRECTIONS = ((0.35, 0.1, -1.0), (-0.2, 0.3, -1.0))
REFLECTIONS = ((11, 3, -2), (-4, 9, 5), (2, -5, 10))
NAMES = ("strain", "turn", "Ncells_abc", "fudge", "wavelength", "origin", "amplitudes")


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    """In [-1, 1]."""
    draw = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(shape, generator=draw, dtype=torch.float64) - 1


def on_peaks(n: float, shape: str, size: tuple[int, int] = (31, 23), **options: object) -> Model:
    """Two panels, each about a reflection of a crystal of about n cells, its spot some ten pixels
    wide: all that is spread, in angle or wavelength, is so by a part of it. phi begins at 0."""
    experiment, _, _, own = build(Case(xtal_shape=shape, phi=2, masked=True, image_size=size))
    fine = 0.5 / (12 * n)
    beam, goniometer = experiment.beam, experiment.goniometer
    s0 = tensor(0.02, -0.01, -1)
    direction = s0 / s0.norm() + fine * uniform(1, 2, 3, seed=1)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    beam = replace(beam, direction=direction, wavelength=1 + fine * uniform(1, 2, seed=2))
    s1 = tensor(*DIRECTIONS, (0.1, -0.3, -1.0))
    s1 = s1 / s1.norm(dim=1, keepdim=True)
    turn = goniometer.setting[0] @ from_vector(fine / 2 * goniometer.axis) @ goniometer.fixed
    A = turn.T @ (s1 - s0 / s0.norm()).T @ torch.linalg.inv(tensor(*REFLECTIONS).T)
    crystal = replace(
        experiment.crystal,
        A=A[None],
        Ncells_abc=n * tensor(1.0, 0.83, 1.21),
        umats=mosaic.mosaic_umats(tensor(fine)[0], 3, "gaussian", 5),
    )
    panels = []
    for panel, way in zip(experiment.panels, s1):
        middle = panel.pixel_size @ torch.stack([panel.fast, panel.slow]) * tensor(*size)[0] / 2
        mask = uniform(*panel.shape, seed=len(panels)) < 0.8
        panels.append(replace(panel, origin=30 * n * way - middle, mask=mask))
    axis = torch.arange(-12, 13)
    indices = torch.cartesian_prod(axis, axis, axis)
    table = structure_factors.table(indices, 100 + 60 * uniform(len(indices), seed=3), 20.0)
    experiment = replace(
        experiment, panels=tuple(panels), beam=beam, crystal=crystal, goniometer=goniometer
    )
    exposure = build(Case(phi=2))[1]
    return experiment, replace(exposure, phi=(0.0, fine)), table, replace(own, **options)


def leaves(model: Model) -> dict[str, Tensor]:
    """What is differentiated, by name: the strain (h k l) and the turn (radians) of the crystal
    among it."""
    experiment, _, table, _ = model
    values = {
        "strain": torch.zeros(6, dtype=torch.float64),
        "turn": tensor(0.3, -0.2, 0.1),
        "Ncells_abc": experiment.crystal.Ncells_abc,
        "fudge": experiment.crystal.fudge,
        "wavelength": experiment.beam.wavelength,
        "origin": torch.stack([panel.origin for panel in experiment.panels]),
        "amplitudes": table.Fhkl,
    }
    return {name: value.detach().clone() for name, value in values.items()}


def made(model: Model, values: dict[str, Tensor], **options: object) -> Model:
    """The model of these values."""
    experiment, exposure, table, own = model
    values = {**leaves(model), **values}
    xx, yy, zz, xy, xz, yz = values["strain"]
    strain = torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz]).reshape(3, 3)
    turn = from_vector(values["turn"]) @ from_vector(tensor(0.3, -0.2, 0.1)).T
    A = turn @ experiment.crystal.A @ (torch.eye(3, dtype=torch.float64) + strain)
    of_crystal = {name: values[name] for name in ("Ncells_abc", "fudge")}
    experiment = replace(
        experiment,
        crystal=replace(experiment.crystal, A=A, **of_crystal),
        beam=replace(experiment.beam, wavelength=values["wavelength"]),
        panels=tuple(
            replace(panel, origin=origin)
            for panel, origin in zip(experiment.panels, values["origin"])
        ),
    )
    return experiment, exposure, replace(table, Fhkl=values["amplitudes"]), replace(own, **options)


def flat(images: list[Tensor]) -> Tensor:
    return torch.cat([image.flatten() for image in images])


def gradients(
    model: Model, names: tuple[str, ...] = NAMES, **options: object
) -> tuple[Tensor, dict[str, Tensor]]:
    """Photons of all panels, and gradients of their sum weighed at random, by name."""
    values = {name: leaves(model)[name].requires_grad_() for name in names}
    photons = flat(simulate.simulate(*made(model, values, **options)))
    if not photons.requires_grad:  # of an image in which nothing is lit
        return photons, {name: torch.zeros_like(value) for name, value in values.items()}
    weights = uniform(len(photons), seed=9)
    found = torch.autograd.grad(
        photons @ weights, list(values.values()), allow_unused=True, materialize_grads=True
    )
    return photons.detach(), dict(zip(names, found))


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """By name: the largest of a component, as a part of the gradient's norm."""
    assert found.keys() == expected.keys()
    answer = {}
    for name, one in expected.items():
        assert torch.isfinite(found[name]).all() and found[name].shape == one.shape
        size = max(float(one.norm()), 1e-300)
        answer[name] = float((found[name] - one).abs().max()) / size
    return answer


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """To the bit."""
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], one) for name, one in expected.items())


CASES = {
    "plain": Case(seed=3),
    "panels and mask": Case(seed=4, panels=3, masked=True, sources=3),
    "moving": Case(seed=5, drift=True, phi=2),
    "layers": Case(seed=6, layers=2, options={"oversample": 2}),
    "one way": Case(seed=7, sources=3, same_way=True, domains=9),
}
