"""The PHIL scope `crystal.damage`: radiation damage along a scan."""

from __future__ import annotations

from typing import Any

import torch
from libtbx.utils import Sorry

from nanobragg_plugin.models import Damage


def damage_of(params: Any, experiment: Any, before: int, device: Any) -> tuple[Damage | None, str]:
    """The core's, and a line for the log; None: there is none. params: all that are extracted;
    experiment: dxtbx's; before: images of its whole scan before its own first."""
    scope = params.crystal.damage
    if not (scope.b_per_image or scope.loss_per_image):
        return None, ""
    if experiment.scan is None:
        raise Sorry("crystal.damage grows along a scan: a still has none; leave crystal.damage out")
    if params.background.water_c:
        raise Sorry(
            "crystal.damage weakens the spots alone, background.water_c is added to them before: "
            "use background.water instead"
        )
    damage = Damage(
        *(
            torch.tensor(value, dtype=torch.float64, device=device)
            for value in (scope.b_per_image, scope.loss_per_image)
        ),
        float(before),
    )
    note = (
        f"Radiation damage: B grows by {scope.b_per_image:g} Angstrom^2 an image, "
        f"{100 * scope.loss_per_image:g} % of the intensities are lost; {before} images before "
        "the first one here"
    )
    return damage, note
