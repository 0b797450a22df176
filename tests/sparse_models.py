"""Random experiments for the sparse kernel: small detectors, all that can make a bound wrong.

Several tilted panels with gaps between them, one of them in the direct beam; sensors; sources of
several directions, wavelengths and weights; triclinic crystals that turn, and that may drift;
masks; amplitudes that differ by orders of magnitude.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanobragg_plugin import models, mosaic, sampling, structure_factors
from nanobragg_plugin.cell import b_matrix
from nanobragg_plugin.rotation import from_vector, phi_steps
from nanobragg_plugin.simulate import simulate

#: What `simulate` takes.
Model = tuple[
    models.Experiment,
    models.Exposure,
    structure_factors.StructureFactors,
    models.SimulationOptions,
]


@dataclass(frozen=True)
class Case:
    """edges: range of a, b, c, Angstrom; ncells: range of the domain's cells along each; phi:
    steps; cell_spread: of the domains, relative; layers of the sensor, 0: none; drift: crystal and
    beam have values at two scan points; same_way: all sources have one direction; options:
    SimulationOptions' own."""

    seed: int = 0
    xtal_shape: str = "gauss"
    edges: tuple[float, float] = (30.0, 80.0)
    ncells: tuple[float, float] = (3.0, 23.0)
    panels: int = 2
    image_size: tuple[int, int] = (43, 34)
    phi: int = 3
    domains: int = 3
    cell_spread: float = 0.0
    sources: int = 2
    layers: int = 0
    same_way: bool = False
    drift: bool = False
    masked: bool = False
    options: dict[str, object] = dataclasses.field(default_factory=dict)


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def build(case: Case) -> Model:
    """What `simulate` takes; not compiled."""
    draw = torch.Generator().manual_seed(case.seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=draw)

    panels = _panels(case, uniform)
    experiment = models.Experiment(
        panels, _beam(case, uniform), _goniometer(uniform), _crystal(case, uniform)
    )
    start = 360 * float(uniform(1))
    phi = phi_steps(start, 0.4, case.phi) if case.phi > 1 else (start / 57.3,)
    exposure = models.Exposure(phi, tuple((k + 0.5) / case.phi for k in range(case.phi)))
    layers = None
    if case.layers:
        layers = tuple(sampling.sensor_layers(p, case.layers, "absorption") for p in panels)
    options = {"precision": "double", "compile": "never", "layers": layers, **case.options}
    axis = torch.arange(-7, 8)
    indices = torch.cartesian_prod(axis, axis, axis)
    amplitudes = 100 * torch.exp(-5 * uniform(len(indices)))
    amplitudes[uniform(len(indices)) < 0.1] = 0  # absent ones
    table = structure_factors.table(indices, amplitudes, default_F=20.0)
    return experiment, exposure, table, models.SimulationOptions(**options)


def _panels(case: Case, uniform) -> tuple[models.Panel, ...]:
    """Side by side, 3 pixels apart, the first one in the direct beam."""
    turn = from_vector((uniform(3) - 0.5) * 0.8)
    pixel_size = 0.1 + 0.2 * uniform(2)
    offset = pixel_size * tensor(case.image_size) * uniform(2)
    first = torch.stack([-offset[0], offset[1], -30 - 70 * uniform(1)[0]])
    thickness, mu = 0.2 + uniform(1)[0], 1 + 4 * uniform(1)[0]
    panels = []
    for number in range(case.panels):
        tilt = turn @ from_vector(0.1 * number * (uniform(3) - 0.5))
        aside = number * (case.image_size[0] + 3) * pixel_size[0] * turn[:, 0]
        mask = None
        if case.masked:  # the last panel is masked as a whole
            mask = uniform(*case.image_size[::-1]) < (0.5 if number + 1 < case.panels else 0)
        fast, slow = tilt[:, 0], -tilt[:, 1]
        origin = turn @ first + aside
        panels.append(
            models.Panel(origin, fast, slow, pixel_size, case.image_size, thickness, mu, mask)
        )
    return tuple(panels)


def _beam(case: Case, uniform) -> models.Beam:
    points = 2 if case.drift else 1
    direction = tensor([0.0, 0, -1]) + 0.004 * (uniform(points, case.sources, 3) - 0.5)
    if case.same_way:
        direction = direction[:, :1].expand(points, case.sources, 3)
    return models.Beam(
        direction / direction.norm(dim=-1, keepdim=True),
        1 + 0.02 * uniform(points, case.sources),
        0.2 + uniform(case.sources),
        tensor(0.9),
        tensor([1.0, 0, 0]),
        tensor(1e26),
    )


def _goniometer(uniform) -> models.Goniometer:
    eye = torch.eye(3, dtype=torch.float64)
    axis = from_vector(3 * uniform(3)) @ tensor([1.0, 0, 0])
    return models.Goniometer(axis, from_vector(uniform(3)), eye[None])


def _crystal(case: Case, uniform) -> models.Crystal:
    edges = case.edges[0] * (case.edges[1] / case.edges[0]) ** uniform(3)
    a_matrix = from_vector(uniform(3) * 2) @ b_matrix(torch.cat([edges, 75 + 30 * uniform(3)]))
    turns = [0.003 * i * (uniform(3) - 0.5) for i in range(2 if case.drift else 1)]
    umats = mosaic.mosaic_umats(0.004 * uniform(1)[0], case.domains, "gaussian", case.seed)
    if case.cell_spread:
        deviates = mosaic.gaussian_deviates(case.domains, case.seed + 1)
        umats = mosaic.with_cells(umats, tensor(case.cell_spread), deviates, a_matrix)
    ncells = case.ncells[0] + (case.ncells[1] - case.ncells[0]) * uniform(3)
    fudge = 0.5 + uniform(1)[0]
    if case.xtal_shape.endswith("_star"):  # of their own width hardly a sample would be in a spot
        fudge = fudge * (ncells.mean() / ncells.prod()) ** 2 / a_matrix.square().sum() * 3
    return models.Crystal(
        torch.stack([from_vector(turn) @ a_matrix for turn in turns]),
        ncells,
        case.xtal_shape,
        fudge,
        tensor(1e4),
        umats,
        ("crystal", "lab")[case.seed % 2],
    )


def images(model: Model, **options: object) -> Tensor:
    """Photons [pixels] of all panels, with some options of one's own."""
    with torch.no_grad():
        found = simulate(*model[:3], replace(model[3], **options))
    return torch.cat([image.flatten() for image in found])


def compared(model: Model, part: float) -> tuple[Tensor, Tensor]:
    """Photons of the dense kernel and of the sparse one, whose tolerance is `part` of the brightest
    pixel: which lacks at most that of each pixel, and adds nothing."""
    dense = images(model, kernel="dense")
    tolerance = part * float(dense.nan_to_num(0).max())
    # beyond exp(-86) of a gauss spot's peak float32, in which the bound is, has only 0
    tolerance = max(tolerance, 1e-18)
    sparse = images(model, kernel="sparse", tolerance=tolerance)
    rounding = 1e-12 * dense  # measured worst 9e-16
    known = ~dense.isnan()
    assert (sparse <= dense + rounding)[known].all()
    assert (dense - sparse <= tolerance + rounding)[known].all()
    return dense, sparse
