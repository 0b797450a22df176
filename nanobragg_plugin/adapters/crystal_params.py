"""The crystal of the core, from dxtbx's and the PHIL scope `crystal`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from cctbx import uctbx
from libtbx import Auto
from libtbx.utils import Sorry
from torch import Tensor

from nanobragg_plugin import mosaic
from nanobragg_plugin.adapters import checks, models
from nanobragg_plugin.adapters.phil_values import positive
from nanobragg_plugin.cell import edges, volume
from nanobragg_plugin.constants import RTD
from nanobragg_plugin.models import Crystal

#: Domains that are simulated where there is a spread and no number is given.
MOSAIC_DOMAINS = 16
#: Unit cells of a domain along each axis where nothing says how many.
NCELLS = 30.0
#: sigma of a top-hat distribution over its half width.
TOP_HAT = 1 / math.sqrt(3)


@dataclass(frozen=True)
class Sample:
    """crystal: the core's; spread: of its orientations, radians, the largest about any axis; notes:
    lines for the log."""

    crystal: Crystal
    spread: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class MosaicModel:
    """What a dxtbx crystal says of its mosaicity: sigma_deg about each axis; domain_size_ang; None:
    nothing. name: that of the model."""

    sigma_deg: float | None = None
    domain_size_ang: float | None = None
    name: str = ""


def mosaic_model(model: Any) -> MosaicModel:
    """The mosaic model of a dxtbx crystal.

    Kabsch (2010), Acta Cryst. D66, 133: sigma_M, the standard deviation of the rocking angle, is
    sigma itself. Sauter et al. (2014), Acta Cryst. D70, 3299: the angle by which a reflection is
    off the Ewald sphere has a top-hat distribution of half width d/D + eta/2, with the domain size
    D and half mosaicity eta/2; sigma is that of a top hat of half width eta/2, eta/2/sqrt(3). 0 is
    what dxtbx has where nothing was refined: it says nothing.
    """
    if hasattr(model, "get_mosaicity"):
        sigma = _not_negative(model.get_mosaicity(), "the mosaicity of the crystal, degrees,")
        return MosaicModel(sigma or None, None, "Kabsch 2010")
    if hasattr(model, "get_half_mosaicity_deg"):
        half = _not_negative(
            model.get_half_mosaicity_deg(), "the half mosaicity of the crystal, degrees,"
        )
        size = _not_negative(
            model.get_domain_size_ang(), "the domain size of the crystal, Angstrom,"
        )
        return MosaicModel(half * TOP_HAT or None, size or None, "Sauter 2014")
    return MosaicModel()


def _not_negative(value: float, what: str) -> float:
    return float(checks.not_negative(value, what))


def crystal_of(params: Any, beam_params: Any, experiment: Any, device: Any) -> Sample:
    """The core's crystal; params, beam_params: the scopes `crystal` and `beam`."""
    model = mosaic_model(experiment.crystal)
    a_matrix = models.crystal_orientation(experiment.crystal)[0]
    ncells, notes = _ncells(params, model, edges(a_matrix))
    spreads = _Spreads.of(params, model, experiment.crystal)
    spot_scale, how = spot_scale_of(params, beam_params, ncells, float(volume(a_matrix)))
    options = models.CrystalOptions(
        ncells,
        params.xtal_shape,
        params.fudge,
        spot_scale,
        spreads.umats(a_matrix),
        params.mosaic.frame,
    )
    note = (
        f"Crystal: {params.xtal_shape} domains of {' x '.join(f'{n:g}' for n in ncells)} cells, "
        f"{spot_scale:.4g} in the beam ({how}); {spreads}"
    )
    crystal = models.crystal(experiment.crystal, options, device)
    return Sample(crystal, max(spreads.degrees) / RTD, (note, *notes, *spreads.notes))


def cells_of_domain(params: Any, crystal: Any) -> list[float]:
    """Ncells_abc of the scope `crystal` and a dxtbx crystal."""
    lengths = edges(models.crystal_orientation(crystal)[0])
    return _ncells(params, mosaic_model(crystal), lengths)[0]


def _ncells(params: Any, model: MosaicModel, lengths: Tensor) -> tuple[list[float], list[str]]:
    """Unit cells of a domain, and lines for the log."""
    size, notes = params.domain_size_ang, []
    if size is None and params.Ncells_abc is not None:
        return [float(n) for n in params.Ncells_abc], notes
    if size is None and model.domain_size_ang is not None:
        size = model.domain_size_ang
        notes = [f"Domain size: {size:g} Angstrom, of the crystal's mosaic model ({model.name})"]
    if size is None:
        return [NCELLS] * 3, notes
    return [max(1.0, round(size / float(length))) for length in lengths], notes


@dataclass(frozen=True)
class _Spreads:
    """How domains differ: degrees: of their orientations, of one number about any axis, of three
    about those of `mosaic.crystal_frame`; cell: relative, of the edges; tied [3]: which edge each
    goes with; domains: how many there are."""

    degrees: tuple[float, ...]
    cell: float
    tied: tuple[int, int, int]
    domains: int
    distribution: str
    seed: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, params: Any, model: MosaicModel, crystal: Any) -> _Spreads:
        scope, notes = params.mosaic, []
        degrees = _given_spread(scope)
        if degrees is None and model.sigma_deg is not None:
            degrees = (model.sigma_deg,)
            if scope.distribution == "cap":
                raise Sorry(
                    "crystal.mosaic.distribution=cap: the spread of the crystal's mosaic model "
                    f"({model.name}) is not that of a cap; give crystal.mosaic.spread_deg"
                )
            notes.append(
                f"Mosaic spread: sigma {degrees[0]:.4g} degrees, of the crystal's mosaic model "
                f"({model.name})"
            )
        degrees = degrees or (0.0,)
        cell = params.cell_spread_percent / 100
        _refuse_lab_frame(scope, cell)
        domains, spread = scope.domains, max(degrees) > 0 or cell > 0
        if domains is Auto:
            domains = MOSAIC_DOMAINS if spread else 1
        if not spread and domains > 1:
            raise Sorry(
                f"crystal.mosaic.domains={domains} without crystal.mosaic.spread_deg: all domains "
                "would be alike; give the spread"
            )
        if domains == 1 and spread and (cell > 0 or len(degrees) == 3):
            raise Sorry(
                "crystal.mosaic.domains=1: a single domain has neither crystal.cell_spread_percent "
                "nor crystal.mosaic.spread_abc_deg; give more of them"
            )
        tied = tied_edges(crystal)
        seed = mosaic_seed(scope)
        return cls(degrees, cell, tied, domains, scope.distribution, seed, tuple(notes))

    def umats(self, a_matrix: Tensor) -> Tensor | None:
        """[domains, 3, 3] of a crystal of A; None: one perfect domain."""
        radians = torch.tensor(self.degrees, dtype=torch.float64) / RTD
        turned, gaussian = max(self.degrees) > 0, self.distribution == "gaussian"
        frame = mosaic.crystal_frame(a_matrix) if len(radians) == 3 else None
        if not self.cell:
            if not turned:
                return None
            radians = radians if len(radians) == 3 else radians[0]
            return mosaic.mosaic_umats(radians, self.domains, self.distribution, self.seed, frame)
        kinds = sorted(set(self.tied))
        turns = 3 if turned and gaussian else 0
        deviates = mosaic.gaussian_deviates(self.domains, self.seed, turns + len(kinds))
        umats = mosaic.identity_umats()
        if turns:
            umats = mosaic.gaussian_umats(radians, deviates[:, :3], frame)
        elif turned:
            umats = mosaic.mosaic_umats(radians[0], self.domains, "cap", self.seed)
        of_edges = deviates[:, [turns + kinds.index(kind) for kind in self.tied]]
        return mosaic.with_cells(umats, torch.tensor(self.cell).double(), of_edges, a_matrix)

    def __str__(self) -> str:
        degrees = ", ".join(f"{spread:g}" for spread in self.degrees)
        words = f"mosaic spread {degrees} degrees"
        if self.cell:
            words += f", spread of cell edges {100 * self.cell:g} %"
        return f"{words} in {self.domains} orientations"


def _given_spread(scope: Any) -> tuple[float, ...] | None:
    """spread_deg or spread_abc_deg; None: neither is given."""
    if scope.spread_abc_deg is None:
        return None if scope.spread_deg is None else (scope.spread_deg,)
    if scope.spread_deg is not None:
        raise Sorry(
            "crystal.mosaic.spread_deg and spread_abc_deg both give the spread of orientations: "
            "give one of them (of a preset's, set spread_deg=None)"
        )
    if scope.distribution != "gaussian":
        raise Sorry(
            "crystal.mosaic.spread_abc_deg is of a gaussian: with distribution=cap give spread_deg"
        )
    if scope.frame == "lab":
        raise Sorry(
            "crystal.mosaic.spread_abc_deg is about the crystal's axes: it needs frame=crystal"
        )
    return tuple(scope.spread_abc_deg)


def _refuse_lab_frame(scope: Any, cell: float) -> None:
    if cell > 0 and scope.frame == "lab":
        raise Sorry(
            "crystal.cell_spread_percent: cells that differ turn with the crystal; it needs "
            "crystal.mosaic.frame=crystal"
        )


def tied_edges(crystal: Any) -> tuple[int, int, int]:
    """Of a, b, c of a dxtbx crystal the first edge that each must be as long as, in its space
    group: (0, 0, 2) of a tetragonal one."""
    lengths, angles = _parts(crystal.get_unit_cell())
    changed = [length * factor for length, factor in zip(lengths, (1.01, 1.02, 1.04))]
    group = crystal.get_space_group()
    averaged, _ = _parts(group.average_unit_cell(uctbx.unit_cell((*changed, *angles))))
    ratios = [now / length for now, length in zip(averaged, lengths)]
    return tuple(
        next(first for first in range(3) if abs(ratios[first] - ratio) < 1e-6) for ratio in ratios
    )


def _parts(cell: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return cell.parameters()[:3], cell.parameters()[3:]


def mosaic_seed(params: Any) -> int:
    """The seed of the domains' orientations; params: the PHIL scope crystal.mosaic, extracted."""
    if params.seed is not None:
        return params.seed
    return mosaic.CLASSIC_SEED if params.distribution == "cap" else 0


def spot_scale_of(
    params: Any, beam_params: Any, ncells: list[float], cell_volume: float
) -> tuple[float, str]:
    """Domains in the beam, and where the figure came from."""
    if params.size_mm is not None:
        positive(params.size_mm, "crystal.size_mm")
    if params.spot_scale is not None:
        return positive(params.spot_scale, "crystal.spot_scale"), "as given"
    if params.size_mm is None:
        return 1.0, "a single domain: no crystal.size_mm"
    size = list(params.size_mm)
    if beam_params.beamsize_mm:
        beam_size = positive(beam_params.beamsize_mm, "beam.beamsize_mm")
        size[:2] = [min(size[0], beam_size[0]), min(size[1], beam_size[-1])]
    domain = math.prod(ncells) * cell_volume  # Angstrom^3; 1 mm is 1e7 Angstrom
    scale = math.prod(size) * 1e21 / domain
    return scale, f"{size[0]:g} x {size[1]:g} x {size[2]:g} mm^3 illuminated"
