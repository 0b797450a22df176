"""What nanoBragg.c takes from the headers of -mask and -img before it looks at any other flag."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from nanobragg_plugin.adapters import smv_header
from nanobragg_plugin.adapters.classic.flags import Given
from nanobragg_plugin.constants import RTD

#: Keyword -> variable of `settings.Settings` and divisor to its unit.
KEYWORDS = {
    "PIXEL_SIZE": ("pixel", 1000.0),
    "DISTANCE": ("distance", 1000.0),
    "CLOSE_DISTANCE": ("close_distance", 1000.0),
    "WAVELENGTH": ("wavelength", 1e10),
    "BEAM_CENTER_X": ("xbeam", 1000.0),
    "BEAM_CENTER_Y": ("ybeam", 1000.0),
    "ORGX": ("orgx", 1.0),
    "ORGY": ("orgy", 1.0),
    "PHI": ("phi", RTD),
    "OSC_RANGE": ("osc", RTD),
}


def header_of(given: Iterable[Given]) -> tuple[dict[str, Any], np.ndarray | None]:
    """The variables that the headers set, those of -img after those of -mask, and the mask, bool
    [slow, fast], True where a pixel is simulated. TWOTHETA is read and not used there."""
    named = {flag.name: flag.values[0] for flag in given if flag.name in ("-mask", "-img")}
    values: dict[str, Any] = {}
    mask = None
    if "-mask" in named:
        image = smv_header.read(named["-mask"])
        mask = image.data != 0
        values |= _variables(image, upside_down=True)
    if "-img" in named:
        values |= _variables(smv_header.read(named["-img"]), upside_down=False)
    return values, mask


def _variables(image: smv_header.SmvImage, upside_down: bool) -> dict[str, Any]:
    """upside_down: BEAM_CENTER_Y of a mask counts from the other edge."""
    found = {
        variable: value / divisor
        for keyword, (variable, divisor) in KEYWORDS.items()
        if (value := image.values.get(keyword)) is not None
    }
    pixel = found.get("pixel", 1e-4)
    size = [pixel * image.width, pixel * image.height]
    if upside_down and "ybeam" in found:
        found["ybeam"] = size[1] - found["ybeam"]
    if found.get("osc", 0.0) < 0:  # is as not given
        del found["osc"]
    return {**found, "pixels": [image.width, image.height], "detsize": size}
