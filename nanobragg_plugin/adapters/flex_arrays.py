"""flex arrays of panels as numpy's."""

from __future__ import annotations

from typing import Any

import numpy as np


def arrays(data: Any) -> list[np.ndarray]:
    """What an image set gives for an image, a panel or a tuple of them, as arrays [slow, fast]."""
    tuples = data if isinstance(data, (tuple, list)) else (data,)
    return [one.as_numpy_array() for one in tuples]
