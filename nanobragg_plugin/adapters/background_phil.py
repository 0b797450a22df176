"""What lies in the beam beside the crystal: PHIL to `background.Material`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import ice
from nanobragg_plugin.adapters.phil_values import positive
from nanobragg_plugin.background import Material, molecules

#: sin(theta)/lambda, 1/Angstrom, and amplitude of a molecule, electrons. The tables of simtbx'
#: examples ("rough approximation to water", "to air").
TABLES = {
    "water": (
        (0, 0.0365, 0.07, 0.12, 0.162, 0.18, 0.2, 0.216, 0.236, 0.28, 0.3, 0.345, 0.436, 0.5),
        (2.57, 2.58, 2.8, 5, 8, 7.32, 6.75, 6.75, 6.5, 4.5, 4.3, 4.36, 3.77, 3.17),
    ),
    "air": ((0, 0.045, 0.174, 0.35, 0.5), (14.1, 13.5, 8.35, 4.78, 4.22)),
}
#: Thicker than this, mm, a material is not taken to be where the crystal is: so many places along
#: the beam, of Gauss and Legendre.
THIN_MM, PLACES = 1.0, 8


def materials_of(params: Any, device: torch.device) -> tuple[Material, ...]:
    """Of the scope `background`; `Sorry` where something is missing."""
    found = []
    for name in ("water", "air", "ice", "other"):
        scope = getattr(params, name)
        if scope.thickness_mm is not None:
            table = ice.table(scope.fwhm_inv_ang) if name == "ice" else TABLES.get(name)
            found.append(_material(scope, f"background.{name}", table, device))
        elif getattr(scope, "stol_file", None) is not None:
            raise Sorry(f"background.{name} needs a thickness: give background.{name}.thickness_mm")
    return tuple(found)


def _material(params: Any, path: str, table: Any, device: torch.device) -> Material:
    if table is None:
        table = read_table(params.stol_file, f"{path}.stol_file", "F (electrons)")
    stol, f = table
    for name in ("thickness_mm", "density_g_cm3", "molecular_weight"):
        if getattr(params, name) is None:
            raise Sorry(f"{path} needs {path}.{name}")
        positive(getattr(params, name), f"{path}.{name}")
    density, weight = params.density_g_cm3, params.molecular_weight
    places, shares = [0.0], [1.0]
    if params.thickness_mm > THIN_MM:
        nodes, weights = np.polynomial.legendre.leggauss(PLACES)
        places, shares = nodes * params.thickness_mm / 2, weights / 2

    def tensor(values: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, float), device=device)

    return Material(
        stol=tensor(stol),
        f=tensor(f),
        per_area=tensor(molecules(params.thickness_mm, density, weight)),
        along_mm=tensor(np.asarray(places) + params.centre_mm),
        share=tensor(shares),
    )


def beam_stop(params: Any) -> float | None:
    """Angle, radians, from the beam to the edge of the shadow, of the scope `background.beam_stop`;
    None without one."""
    if params.radius_mm is None and params.distance_mm is None:
        return None
    for name in ("radius_mm", "distance_mm"):
        if getattr(params, name) is None:
            raise Sorry(f"background.beam_stop needs background.beam_stop.{name}")
        positive(getattr(params, name), f"background.beam_stop.{name}")
    return math.atan2(params.radius_mm, params.distance_mm)


def read_table(name: str | None, path: str, what: str) -> tuple[np.ndarray, np.ndarray]:
    """The columns of a file of sin(theta)/lambda and `what`, the parameter `path`."""
    mend = f"two columns, sin(theta)/lambda (1/Angstrom, rising) and {what}, not negative"
    if name is None:
        raise Sorry(f"{path} is missing: give a file of {mend}")
    if not Path(name).is_file():
        raise Sorry(f"{path}={name}: there is no such file")
    try:
        table = np.loadtxt(name, ndmin=2, comments=("#", "!"))
    except (ValueError, OSError, UnicodeDecodeError):
        raise Sorry(f"{path}={name} is no table: it must have {mend}") from None
    good = table.shape[1:] == (2,) and len(table) > 1 and np.isfinite(table).all()
    if not (good and (np.diff(table[:, 0]) > 0).all() and table.min() >= 0):
        raise Sorry(f"{path}={name} is no such table: it must have {mend}")
    return table[:, 0], table[:, 1]


def beam_area(params: Any, materials: tuple[Material, ...]) -> float:
    """m^2, by which a fluence becomes a number of photons, where materials need it."""
    if not materials:
        return 0.0
    if params.beamsize_mm is None:
        raise Sorry(
            "what lies in the beam (background) needs to know how many photons it has: give "
            "beam.beamsize_mm"
        )
    sizes = positive(params.beamsize_mm, "beam.beamsize_mm")
    return sizes[0] * sizes[-1] * 1e-6
