"""What an output was made from."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from nanobragg_plugin import __version__
from nanobragg_plugin.run.outputs import whole


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def provenance(phil_text: str, inputs: Iterable[str | Path], seeds: dict[str, Any]) -> dict:
    """Versions, parameters, seeds, and names and checksums of the inputs, as JSON has them.

    The inputs' names are without their folders: files are passed on to strangers.
    """
    return {
        "program": "nanobragg.simulate",
        "nanobragg_plugin": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "phil": phil_text,
        "seeds": seeds,
        "inputs": [{"name": Path(path).name, "sha256": sha256(path)} for path in inputs],
    }


def write_text(path: str | Path, text: str) -> None:
    """Write a file that appears under its name only when it is whole."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: dict) -> None:
    """`write_text` of JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")
