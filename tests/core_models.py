"""Small random experiments for the tests of the core: triclinic, tilted, nothing square.

Everything that is differentiable is a named tensor of `parameters`, everything else a field of
`Setup`; `build` makes an experiment of both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nanobragg_plugin import cell, mosaic, structure_factors
from nanobragg_plugin.carryover import initialize_phi_cache
from nanobragg_plugin.kernels.batches import simulated_pixels
from nanobragg_plugin.models import (
    XTAL_SHAPES,
    Beam,
    Crystal,
    Damage,
    Diffuse,
    Experiment,
    Exposure,
    Goniometer,
    Layers,
    Panel,
    SimulationOptions,
)
from nanobragg_plugin.rotation import from_vector

Model = tuple[Experiment, Exposure, structure_factors.StructureFactors, SimulationOptions]


@dataclass(frozen=True)
class Setup:
    """What is not differentiable. phi in radians; cells: whether domains have cells of their own;
    damaged: whether by radiation; diffuse: whether it scatters diffusely;
    layers: of the sensor, 0 for no sensor; varying: which models have their own values at the scan
    points; curved: whether the panels are; indices: the largest Miller index in the table."""

    seed: int = 0
    xtal_shape: str = "square"
    mosaic_frame: str = "crystal"
    distribution: str = "gaussian"
    domains: int = 1
    cells: bool = False
    damaged: bool = False
    diffuse: bool = False
    sources: int = 1
    phi: tuple[float, ...] = (0.3,)
    layers: int = 0
    thick_sampling: str = "absorption"
    thick_capture: str = "layer"
    varying: tuple[str, ...] = ()
    polarized: bool = True
    panels: int = 1
    image_size: tuple[int, int] = (5, 4)  # (fast, slow)
    masked: bool = False
    curved: bool = False
    indices: int = 4
    options: dict[str, Any] = field(default_factory=dict)


#: Some micrometres of nanoBragg.c's water, all factors taken once a pixel.
WATER_ONCE = {
    "water_c_um": 0.05,
    "oversample": 2,
    **dict.fromkeys(("oversample_omega", "oversample_polar", "oversample_thick"), False),
}
#: phi of an image that passes through exactly 0 in the middle, radians.
THROUGH_ZERO = (-0.1, 0.0, 0.1)
#: One experiment for every feature of the simulation.
FEATURES = {
    "one sample": Setup(),
    "phi steps": Setup(phi=(0.0, 0.02, 0.04)),
    "domains, crystal frame": Setup(domains=4, phi=(0.5, 0.6)),
    "domains, lab frame": Setup(domains=4, phi=(0.5, 0.6), mosaic_frame="lab"),
    "domains, cap": Setup(domains=3, distribution="cap"),
    "domains of their own cells": Setup(domains=4, phi=(0.5, 0.6), cells=True),
    "sources": Setup(sources=3),
    "two panels": Setup(panels=2),
    "sub-pixels": Setup(options={"oversample": 3}),
    "sub-pixels of the right moments": Setup(options={"oversample": 3, "subpixels": "moments"}),
    "layers, absorption": Setup(layers=3),
    "layers, midpoint": Setup(layers=3, thick_sampling="midpoint"),
    "layers, start": Setup(layers=3, thick_sampling="start"),
    "layers, capture of the last": Setup(
        layers=3, thick_capture="last", options={"oversample": 2, "oversample_thick": False}
    ),
    "layers and sub-pixels": Setup(layers=2, options={"oversample": 2}),
    "unpolarized": Setup(polarized=False),
    "point pixels": Setup(options={"point_pixel": True}),
    "crystal at scan points": Setup(varying=("crystal",), phi=(0.1, 0.2, 0.3)),
    "beam at scan points": Setup(varying=("beam",), phi=(0.1, 0.2, 0.3)),
    "wavelength at scan points": Setup(varying=("wavelength",), phi=(0.1, 0.2, 0.3)),
    "setting at scan points": Setup(varying=("setting",), phi=(0.1, 0.2, 0.3)),
    "mask with holes": Setup(masked=True),
    "carryover from 0": Setup(phi=(0.0, 0.1), options={"phi_carryover_mode": "c-parity"}),
    "carryover through 0": Setup(phi=THROUGH_ZERO, options={"phi_carryover_mode": "c-parity"}),
    **{shape: Setup(xtal_shape=shape, sources=2, domains=2) for shape in XTAL_SHAPES},
    "interpolation": Setup(indices=10, sources=2, options={"interpolate": True}),
    "interpolation in a small table": Setup(phi=(0.1, 0.2), options={"interpolate": True}),
    "d_min": Setup(sources=2, domains=2, options={"d_min": 4.0, "oversample": 2}),
    "d_min, polarization once": Setup(
        sources=2, layers=2, options={"d_min": 4.0, "oversample": 2, "oversample_polar": False}
    ),
    "d_min, a beam that turns": Setup(
        varying=("beam", "wavelength"),
        phi=(0.0, 0.1, 0.2),
        sources=2,
        options={"d_min": 4.0, "oversample_polar": False, "phi_carryover_mode": "c-parity"},
    ),
    "curved": Setup(curved=True, phi=(0.1, 0.2)),
    "curved, layers": Setup(curved=True, layers=2, thick_sampling="start"),
    "water": Setup(options={"water_c_um": 0.05, "oversample": 2}, layers=2),
    "water, all factors once": Setup(layers=3, options=WATER_ONCE),
    "water, capture of the last": Setup(layers=3, thick_capture="last", options=WATER_ONCE),
    "water and d_min": Setup(sources=2, options={**WATER_ONCE, "d_min": 4.0}),
    "water and d_min, unpolarized": Setup(polarized=False, options={**WATER_ONCE, "d_min": 4.0}),
}


def parameters(setup: Setup) -> dict[str, Tensor]:
    """The differentiable half of an experiment, float64, by name."""
    draw = torch.Generator().manual_seed(setup.seed)

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=draw, dtype=torch.float64) - 1

    def around(*middle: float, spread: float) -> Tensor:
        return torch.tensor(middle, dtype=torch.float64) + spread * uniform(len(middle))

    values = {
        "cell": around(11, 14, 17, 82, 97, 105, spread=1.0),
        "misorientation": 2 * uniform(3),
        "spread": around(0.02, spread=0.005)[0],
        "Ncells_abc": around(3, 5, 4, spread=0.0),
        "wavelength": 1.1 + 0.05 * uniform(setup.sources),
        "beam_tilt": 0.05 * uniform(setup.sources, 3),
        "origin": torch.stack([around(-4, 9, -31, spread=2) for _ in range(setup.panels)]),
        "panel_tilt": 0.3 * uniform(setup.panels, 3),
        "pixel_size": around(1.9, 2.6, spread=0.2),
        "axis_tilt": 0.4 * uniform(3),
        "amplitudes": 50 + 40 * uniform((2 * setup.indices + 1) ** 3),
        "kahn_factor": around(0.7, spread=0.2)[0],
        "polarization_tilt": 0.3 * uniform(3),
        "fluence": around(2.0, spread=0.5)[0],  # in 1e28 photons/m^2
        "spot_scale": around(3.0, spread=0.5)[0],
        "fudge": around(1.1, spread=0.3)[0],
        "mu": around(1.5, spread=0.3)[0],
        "thickness": around(0.9, spread=0.2)[0],
        "weight": around(*[1.0] * setup.sources, spread=0.6),
    }
    if setup.cells:
        values["cell_spread"] = around(0.01, spread=0.002)[0]
    if setup.damaged:
        values["b_per_image"] = around(3.0, spread=1.0)[0]
        values["loss_per_image"] = around(0.1, spread=0.05)[0]
    if setup.diffuse:
        values["sigma"] = around(0.3, 0.2, 0.4, spread=0.05)
        values["gamma"] = around(9, 7, 12, spread=1.0)
    if setup.curved:
        values["curved"] = around(-2, 1, -30, spread=1)
    return values


def build(setup: Setup, values: dict[str, Tensor]) -> Model:
    """The experiment, exposure, structure factors and options of a setup and its parameters."""
    draw = torch.Generator().manual_seed(setup.seed + 1000)
    fixed = from_vector(torch.randn(2, 3, generator=draw, dtype=torch.float64))
    wobble = torch.randn(6, 3, 3, generator=draw, dtype=torch.float64)
    experiment = Experiment(
        tuple(_panel(setup, values, number) for number in range(setup.panels)),
        _beam(setup, values, wobble[:2]),
        Goniometer(
            from_vector(values["axis_tilt"]) @ torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64),
            fixed[0],
            _points(fixed[1], wobble[2], "setting" in setup.varying),
        ),
        _crystal(setup, values, wobble[3]),
    )
    images = 2 if setup.varying else 1
    steps = len(setup.phi)
    position = tuple((step + 0.35) * images / steps for step in range(steps))
    layers = None
    if setup.layers:
        edges = torch.linspace(0, 1, setup.layers + 1, dtype=torch.float64) ** 1.3
        edges = edges * values["thickness"]
        layers = tuple(
            Layers(edges, setup.thick_sampling, setup.thick_capture) for _ in range(setup.panels)
        )
    options = {"precision": "double", "layers": layers, **setup.options}
    return (
        experiment,
        Exposure(setup.phi, position),
        _amplitudes(setup, values),
        SimulationOptions(**options),
    )


def sums(
    module: ModuleType, model: Model, panel: int = 0, pixels: Tensor | None = None, batch: int = 999
) -> Tensor:
    """What a kernel module makes of the pixels [n, 2] (all, by default), `batch` at a time."""
    experiment, exposure, amplitudes, options = model
    kernel = module.Kernel(experiment, exposure, amplitudes, options)
    cache = None
    if options.phi_carryover_mode == "c-parity":
        domains = len(experiment.crystal.umats)
        cache = initialize_phi_cache(experiment.panels[panel].shape, domains)
    if pixels is None:
        pixels = simulated_pixels(experiment.panels[panel])
    found = []
    for some in pixels.split(batch):
        values, cache = kernel(panel, some, cache)
        found.append(values)
    return torch.cat(found)


def _points(value: Tensor, wobble: Tensor, varying: bool, points: int = 3) -> Tensor:
    """A model [...] at one scan point, or at three if it varies: turned a little at each."""
    if not varying:
        return value[None]
    turns = torch.linspace(-0.04, 0.03, points, dtype=torch.float64)[:, None] * wobble[0]
    return from_vector(turns) @ value


def _panel(setup: Setup, values: dict[str, Tensor], number: int) -> Panel:
    turn = from_vector(values["panel_tilt"][number])
    mask = None
    if setup.masked:
        draw = torch.Generator().manual_seed(setup.seed + 2000 + number)
        mask = torch.rand(setup.image_size[::-1], generator=draw) < 0.6
    thickness = values["thickness"] if setup.layers else torch.zeros((), dtype=torch.float64)
    return Panel(
        origin=values["origin"][number],
        fast=turn @ torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64),
        slow=turn @ torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64),
        pixel_size=values["pixel_size"],
        image_size=setup.image_size,
        thickness=thickness,
        mu=values["mu"],
        mask=mask,
        curved=values["curved"] if setup.curved else None,
    )


def _beam(setup: Setup, values: dict[str, Tensor], wobble: Tensor) -> Beam:
    z = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
    direction = from_vector(values["beam_tilt"]) @ z
    direction = _points(direction.T, wobble[0], "beam" in setup.varying).transpose(-1, -2)
    wavelength = values["wavelength"][None]
    if "wavelength" in setup.varying:
        wavelength = wavelength * torch.tensor([[1.0], [1.01], [0.985]], dtype=torch.float64)
    y = torch.tensor([0.1, 1.0, 0.05], dtype=torch.float64)
    return Beam(
        direction=direction,
        wavelength=wavelength,
        weight=values["weight"],
        kahn_factor=values["kahn_factor"] if setup.polarized else None,
        polarization_axis=from_vector(values["polarization_tilt"]) @ y,
        fluence=values["fluence"] * 1e28,
    )


def _crystal(setup: Setup, values: dict[str, Tensor], wobble: Tensor) -> Crystal:
    A = from_vector(values["misorientation"]) @ cell.b_matrix(values["cell"])
    umats = mosaic.mosaic_umats(values["spread"], setup.domains, setup.distribution, 7)
    if setup.cells:
        deviates = mosaic.gaussian_deviates(setup.domains, 8)
        umats = mosaic.with_cells(umats, values["cell_spread"], deviates, A)
    damage = None
    if setup.damaged:
        damage = Damage(values["b_per_image"], values["loss_per_image"], 5.0)
    return Crystal(
        A=_points(A, wobble, "crystal" in setup.varying),
        Ncells_abc=values["Ncells_abc"],
        xtal_shape=setup.xtal_shape,
        fudge=values["fudge"],
        spot_scale=values["spot_scale"],
        umats=umats,
        mosaic_frame=setup.mosaic_frame,
        damage=damage,
        diffuse=Diffuse(values["sigma"], values["gamma"]) if setup.diffuse else None,
    )


def _amplitudes(setup: Setup, values: dict[str, Tensor]) -> structure_factors.StructureFactors:
    """Every third reflection is left to default_F."""
    axis = torch.arange(-setup.indices, setup.indices + 1)
    indices = torch.cartesian_prod(axis, axis, axis)
    given = indices @ torch.tensor([1, 4, 2]) % 3 != 0
    return structure_factors.table(indices[given], values["amplitudes"][given], default_F=21.0)
