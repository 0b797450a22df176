"""A differentiable nanoBragg X-ray diffraction simulator that lives inside DIALS."""

from __future__ import annotations

from nanobragg_plugin import _threads

__version__ = "0.1.0"

_threads.prepare()  # before anything of this package imports torch or dxtbx
