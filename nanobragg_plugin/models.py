"""What an experiment is to the simulator: frozen dataclasses that carry tensors.

Vectors are in dxtbx's laboratory frame; mm for the detector, Angstrom for the crystal and the
beam. Any tensor may require a gradient. "points" is the number of scan points (images + 1) of
a scan-varying model, or 1 of a static one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

XTAL_SHAPES = ("square", "round", "gauss", "tophat", "gauss_star", "tophat_star")


@dataclass(frozen=True)
class Panel:
    """A detector panel.

    origin [3] mm: the outer corner of pixel (0, 0); fast, slow [3]: unit vectors; pixel_size
    [2] mm and image_size: (fast, slow); thickness [] mm of the sensor, 0 for none; mu []
    1/mm; mask [slow, fast] bool, True where a pixel is simulated, or None for all of them;
    curved [3] mm: of nanoBragg.c's curved detector the way from the crystal along the beam to its
    middle (see `geometry.curve`), None of a flat panel; odet [3]: what nanoBragg.c takes for the
    normal where that is not fast x slow, else None.
    """

    origin: Tensor
    fast: Tensor
    slow: Tensor
    pixel_size: Tensor
    image_size: tuple[int, int]
    thickness: Tensor
    mu: Tensor
    mask: Tensor | None = None
    name: str = ""
    curved: Tensor | None = None
    odet: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(slow, fast): the shape of this panel's image."""
        return self.image_size[1], self.image_size[0]

    @property
    def normal(self) -> Tensor:
        """[3]: the unit normal that points away from the crystal; layers lie along it."""
        if self.odet is not None:
            return self.odet
        normal = torch.linalg.cross(self.fast, self.slow)
        normal = normal / torch.linalg.vector_norm(normal)
        return torch.where((self.origin * normal).sum() < 0, -normal, normal)


@dataclass(frozen=True)
class Beam:
    """The incident beam as a list of sources.

    direction [points, sources, 3]: unit vectors along s0 (the way the photons go); wavelength
    [points, sources] Angstrom; weight [sources], mean 1; kahn_factor []: 2 f - 1 of dxtbx's
    polarization fraction f, or None for no polarization correction; polarization_axis [3]: the
    direction of the E vector, polarization_normal x s0; fluence [] photons/m^2 per image.
    """

    direction: Tensor
    wavelength: Tensor
    weight: Tensor
    kahn_factor: Tensor | None
    polarization_axis: Tensor
    fluence: Tensor


@dataclass(frozen=True)
class Goniometer:
    """R = S Rot(e, phi) F: axis [3] is e, the unit axis at datum; fixed [3, 3] is F; setting
    [points, 3, 3] is S."""

    axis: Tensor
    fixed: Tensor
    setting: Tensor


@dataclass(frozen=True)
class Damage:
    """Radiation damage along a scan (`damage.part_left`): b_per_image [] Angstrom^2, by which B
    grows; loss_per_image []: the part of all intensities that is lost, exponentially; first: images
    of the scan before that of position 0."""

    b_per_image: Tensor
    loss_per_image: Tensor
    first: float = 0.0


@dataclass(frozen=True)
class Diffuse:
    """Correlated displacements (`nanobragg_plugin.diffuse`): sigma [3] Angstrom, along the axes of
    `mosaic.crystal_frame`; gamma [3] Angstrom, over which they are correlated; stencil: how many
    indices away lattice points are looked at."""

    sigma: Tensor
    gamma: Tensor
    stencil: int = 1


@dataclass(frozen=True)
class Crystal:
    """A crystal of mosaic domains.

    A [points, 3, 3]: columns a*, b*, c* in 1/Angstrom at goniometer datum; Ncells_abc [3]: unit
    cells of a domain along a, b, c; xtal_shape: one of XTAL_SHAPES; fudge []: scales the squared
    distance from the peak; spot_scale []: domains in the beam; umats [domains, 3, 3]: rotations
    of the domains, or whatever else A is multiplied by (`mosaic.with_cells`; the `_star` shapes
    measure distances with A all the same); mosaic_frame: `crystal` (r = R U A h) or `lab` (r = U R
    A h); damage: by radiation, None: none;
    diffuse: of displacements that weaken the spots, None: none.
    """

    A: Tensor
    Ncells_abc: Tensor
    xtal_shape: str
    fudge: Tensor
    spot_scale: Tensor
    umats: Tensor
    mosaic_frame: str = "crystal"
    damage: Damage | None = None
    diffuse: Diffuse | None = None

    def __post_init__(self) -> None:
        if self.xtal_shape not in XTAL_SHAPES:
            raise ValueError(f"xtal_shape {self.xtal_shape!r} is none of {', '.join(XTAL_SHAPES)}")
        if self.mosaic_frame not in ("crystal", "lab"):
            raise ValueError(f"mosaic_frame {self.mosaic_frame!r} is neither crystal nor lab")


@dataclass(frozen=True)
class Experiment:
    """Everything that scatters and detects."""

    panels: tuple[Panel, ...]
    beam: Beam
    goniometer: Goniometer
    crystal: Crystal


@dataclass(frozen=True)
class Exposure:
    """One image: phi of each step, radians, in float64 (whether it is exactly 0 matters), and
    the step's place among the scan points, in images from the first (0.25 is a quarter of the
    way through the first image)."""

    phi: tuple[float, ...]
    position: tuple[float, ...]


@dataclass(frozen=True)
class Layers:
    """Sensor layers: `edges` [layers + 1] mm below the panel's surface; `sampling` says where
    a layer is sampled: `absorption` (its mean depth of absorption), `midpoint`, `start`;
    `capture` which capture fraction weighs it: its own (`layer`), or that of the `last` one, a
    defect of nanoBragg.c (without -oversample_thick) kept to compare with its images."""

    edges: Tensor
    sampling: str = "absorption"
    capture: str = "layer"

    def __post_init__(self) -> None:
        if self.sampling not in ("absorption", "midpoint", "start"):
            raise ValueError(f"thick_sampling {self.sampling!r} is unknown")
        if self.capture not in ("layer", "last"):
            raise ValueError(f"thick_capture {self.capture!r} is neither layer nor last")


@dataclass(frozen=True)
class SimulationOptions:
    """How finely, how exactly, and in which mode. oversample: sub-pixels along each axis.
    subpixels: where they are sampled, in their `centres`, as nanoBragg.c does, or, `moments`,
    further from the pixel's middle, at a mean square distance that is that of all its points: of 2
    sub-pixels these are Gauss's points, which make up for twice as many of their centres.

    layers: one entry a panel, None where a panel has no sensor to model. oversample_omega, _polar
    and _thick: the factor is taken at every sample, else once (DESIGN section 4). precision:
    `mixed` (hkl in float64, the rest float32), `double`, `single`. batch_steps: samples in
    flight where nothing is compiled, which bounds the memory.
    kernel: `dense` evaluates every step, `sparse` those that are not known to matter less than
    tolerance, the largest error of a pixel in photons; `auto` what is estimated to be faster.
    compile: whether kernels are compiled: `always`, `never`, or where the job is large (`auto`).
    d_min: Angstrom; a sample (layer, sub-pixel, source, and step where the beam changes during
    the exposure) of a smaller lambda/(2 sin theta) is left out, 0: none is. interpolate: F_cell
    between the indices, by cubic polynomials, where the table has neighbours enough
    (`structure_factors.interpolated`). water_c_um: micrometres of nanoBragg.c's water, whose
    figure is not physical (`background.water_c`).
    """

    oversample: int = 1
    layers: tuple[Layers | None, ...] | None = None
    oversample_omega: bool = True
    oversample_polar: bool = True
    oversample_thick: bool = True
    point_pixel: bool = False
    phi_carryover_mode: str = "spec"
    precision: str = "mixed"
    batch_steps: int = 1 << 15
    tolerance: float = 0.0
    kernel: str = "auto"
    compile: str = "auto"
    d_min: float = 0.0
    interpolate: bool = False
    water_c_um: float = 0.0
    subpixels: str = "centres"

    def __post_init__(self) -> None:
        if self.subpixels not in ("centres", "moments"):
            raise ValueError(f"subpixels {self.subpixels!r} is neither centres nor moments")
        if self.phi_carryover_mode not in ("spec", "c-parity"):
            raise ValueError(f"phi_carryover_mode {self.phi_carryover_mode!r} is unknown")
        if self.precision not in ("mixed", "double", "single"):
            raise ValueError(f"precision {self.precision!r} is none of mixed, double, single")
        if self.kernel not in ("auto", "dense", "sparse"):
            raise ValueError(f"kernel {self.kernel!r} is none of auto, dense, sparse")
        if self.compile not in ("auto", "always", "never"):
            raise ValueError(f"compile {self.compile!r} is none of auto, always, never")
        if self.oversample < 1 or self.batch_steps < 1:
            raise ValueError("oversample and batch_steps must be at least 1")
        if not (self.d_min >= 0 and self.water_c_um >= 0):
            raise ValueError("d_min and water_c_um must not be negative")

    def layers_of(self, panel: int) -> Layers | None:
        """The sensor layers of a panel."""
        return None if self.layers is None else self.layers[panel]

    @property
    def subpixel_centres(self) -> tuple[float, ...]:
        """Where sub-pixels are sampled along an axis [oversample], in pixels from its edge."""
        n = self.oversample
        wider = n / (n * n - 1) ** 0.5 if self.subpixels == "moments" and n > 1 else 1.0
        return tuple(0.5 + wider * ((i + 0.5) / n - 0.5) for i in range(n))

    @property
    def index_dtype(self) -> torch.dtype:
        """The type in which positions, q and hkl are computed."""
        return torch.float32 if self.precision == "single" else torch.float64

    @property
    def value_dtype(self) -> torch.dtype:
        """The type of everything after the nearest index is subtracted."""
        return torch.float64 if self.precision == "double" else torch.float32


def tensors_of(*things: Any) -> Iterator[Tensor]:
    """All tensors in dataclasses, tuples and what they hold."""
    for thing in things:
        if isinstance(thing, Tensor):
            yield thing
        elif isinstance(thing, tuple):
            yield from tensors_of(*thing)
        elif is_dataclass(thing):
            yield from tensors_of(*vars(thing).values())


def changed_tensors(thing: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same dataclasses and tuples of tensors that are changed, each by itself."""
    if isinstance(thing, Tensor):
        return change(thing)
    if isinstance(thing, tuple):
        return tuple(changed_tensors(one, change) for one in thing)
    if is_dataclass(thing):
        parts = {field.name: getattr(thing, field.name) for field in fields(thing)}
        return replace(thing, **{name: changed_tensors(parts[name], change) for name in parts})
    return thing


def on_device(thing: Any, device: Any) -> Any:
    """The same dataclasses and tuples, their tensors where `Tensor.to` takes them; gradients go
    through."""
    return changed_tensors(thing, lambda tensor: tensor.to(device))


def with_mask(panel: Panel, mask: Tensor | None) -> Panel:
    """The panel with a further mask [slow, fast] (True: simulate): a pixel must pass both."""
    if mask is None:
        return panel
    return replace(panel, mask=mask if panel.mask is None else panel.mask & mask)
