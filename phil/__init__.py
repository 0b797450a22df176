"""Every parameter a user can set, one subject a file; `presets/` holds complete set-ups.

This package holds text only. `nanobragg_plugin.adapters.params` parses it.
"""

from __future__ import annotations

from importlib import resources


def read(name: str) -> str:
    """The text of `phil/NAME.phil`."""
    return (resources.files(__package__) / f"{name}.phil").read_text(encoding="utf-8")


def presets() -> dict[str, str]:
    """Preset name -> PHIL text, for every file in `phil/presets/`."""
    folder = resources.files(__package__) / "presets"
    return {
        entry.name[: -len(".phil")]: entry.read_text(encoding="utf-8")
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".phil")
    }
