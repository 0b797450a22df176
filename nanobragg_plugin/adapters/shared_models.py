"""Which models experiments share."""

from __future__ import annotations

from typing import Any

from dxtbx.model import ExperimentList


def same_model(one: Any, other: Any, name: str) -> bool:
    """Whether two experiments have the same model, the very object, of a name as `detector`."""
    model = getattr(one, name)
    return model is not None and len(ExperimentList([other]).where(**{name: model})) == 1
