"""A differentiable nanoBragg X-ray diffraction simulator that lives inside DIALS."""

from __future__ import annotations

__version__ = "0.1.0"
