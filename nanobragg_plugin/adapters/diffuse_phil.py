"""The PHIL scope `crystal.diffuse`: displacements that scatter diffusely."""

from __future__ import annotations

from typing import Any

import torch
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.crystal_params import tied_edges
from nanobragg_plugin.models import Diffuse

#: Axes for messages.
AXES = "abc"


def diffuse_of(params: Any, crystal: Any, device: Any) -> tuple[Diffuse | None, str]:
    """The core's, and a line for the log; None: there is none. params: all that are extracted;
    crystal: dxtbx's."""
    scope = params.crystal.diffuse
    if scope.sigma_ang is None and scope.gamma_ang is None:
        return None, ""
    for name, other in (("sigma_ang", "gamma_ang"), ("gamma_ang", "sigma_ang")):
        if getattr(scope, name) is None:
            raise Sorry(
                f"crystal.diffuse.{other} without crystal.diffuse.{name}: give both, three values "
                "in Angstrom each"
            )
    if params.background.water_c:
        raise Sorry(
            "crystal.diffuse weakens the spots alone, background.water_c is added to them before: "
            "use background.water instead"
        )
    for name in ("sigma_ang", "gamma_ang"):
        _check_symmetry(name, getattr(scope, name), crystal)
    values = (
        torch.tensor(values, dtype=torch.float64, device=device)
        for values in (scope.sigma_ang, scope.gamma_ang)
    )
    sigma, gamma = (", ".join(f"{v:g}" for v in x) for x in (scope.sigma_ang, scope.gamma_ang))
    note = f"Diffuse scattering: sigma {sigma} Angstrom, gamma {gamma} Angstrom"
    return Diffuse(*values, scope.stencil), note


def _check_symmetry(name: str, values: list[float], crystal: Any) -> None:
    """`Sorry` for values that the crystal's symmetry does not let differ."""
    for axis, first in enumerate(tied_edges(crystal)):
        if values[axis] != values[first]:
            listed = ",".join(f"{value:g}" for value in values)
            raise Sorry(
                f"crystal.diffuse.{name}={listed}: {AXES[first]} and {AXES[axis]} are equivalent "
                f"in {crystal.get_space_group().info()}; give them the same value"
            )
