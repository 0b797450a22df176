"""Values that PHIL's types let through and nothing can be simulated with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from libtbx import Auto
from libtbx.utils import Sorry

#: What may be None though its default is not (`none` of a choice is None to libtbx).
OPTIONAL = (
    *("output.log", "output.compression", "output.html", "resolution_rings"),
    *("refine.shoeboxes.background", "refine.noise.robust", "refine.amplitudes.sigma"),
)
#: What may be Auto though its default is None.
AUTOMATIC = ("structure_factors.model.wavelength",)


def check_values(scope: Any, params: Any) -> None:
    """`Sorry` for a number that is not finite, and for None or Auto where they mean nothing.

    scope: the master, which says by its defaults what may be None or Auto; params: extracted.
    """
    defaults = {item.path: item.object.extract() for item in scope.all_definitions()}
    for path, value in _values(params, ""):
        default = defaults.get(path)
        numbers = value if isinstance(value, (list, tuple)) else [value]
        for number in numbers:
            if isinstance(number, float) and not math.isfinite(number):
                raise Sorry(f"{path}={number}: give a finite number")
        if path not in defaults:
            continue
        if value is None and default is not None and path not in OPTIONAL:
            raise Sorry(f"{path}=None: give a value, or leave it at its default, {_text(default)}")
        automatic = default is Auto or default == "auto" or path in AUTOMATIC
        if value is Auto and not automatic:
            raise Sorry(f"{path}=Auto: it has no automatic value; give one")


def word(value: Any) -> str:
    """The word of a choice: libtbx takes `auto` for an object of its own."""
    return "auto" if value is Auto else value


def positive(value: float | list[float], name: str) -> Any:
    """The value of a parameter; `Sorry` unless it, or all of it, is above 0."""
    if min(value if isinstance(value, (list, tuple)) else [value]) <= 0:
        raise Sorry(f"{name}={_text(value)}: it must be positive")
    return value


def _values(scope: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Path and value of every parameter of an extracted scope."""
    for name, value in vars(scope).items():
        if name.startswith("__") and name.endswith("__"):
            continue
        inner = f"{path}.{name}" if path else name
        for single in value if isinstance(value, list) else [value]:
            if hasattr(single, "__phil_path__"):
                yield from _values(single, inner)
                continue
            yield inner, value
            break


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value[:100])) + ",..." * (len(value) > 100)
    return f"{value:g}" if isinstance(value, float) else str(value)
