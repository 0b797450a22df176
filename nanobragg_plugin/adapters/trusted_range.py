"""What dxtbx means by a trusted range. Imports no torch: the image format class needs it."""

from __future__ import annotations

from functools import cache

from dxtbx.model import Panel


@cache
def trusted_range_is_inclusive() -> bool:
    """Whether this dxtbx trusts a value equal to the upper end (from 3.12 on) or not."""
    panel = Panel()
    panel.set_trusted_range((0, 1))
    return panel.is_value_in_trusted_range(1)
