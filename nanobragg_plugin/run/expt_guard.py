"""Experiment lists may come from strangers: what dxtbx would hang or fill the memory with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from libtbx.utils import Sorry

from nanobragg_plugin.adapters.load import MODELS
from nanobragg_plugin.adapters.strangers import read_text
from nanobragg_plugin.format.nxmx_models import check_scan

#: Bytes; 100 000 stills are some 100 MB.
MAX_BYTES = 1 << 30
#: Scan points of a model that are looked at whether there are images for them or not: beyond,
#: dxtbx takes a minute for a million.
FEW_POINTS = 1000


def check_file(name: str) -> None:
    """`Sorry` for an experiment list with a scan that dxtbx would make endless lists of, or with
    models in files of their own, whatever those are. Anything else is left to dxtbx."""
    try:
        with Path(name).open("rb") as stream:
            if not stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
                return
        content = json.loads(read_text(name, "an experiment list", MAX_BYTES))
    except (OSError, ValueError, RecursionError, Sorry):
        return
    longest = FEW_POINTS
    for number, scan in enumerate(_dictionaries(content, "scan")):
        try:
            if scan.get("image_range") is not None:
                check_scan(scan)
                first, last = map(int, scan["image_range"])
                longest = max(longest, last - first + 2)
        except (ValueError, TypeError, OverflowError):
            shown = " ".join(str(scan["image_range"]).split())[:60]
            raise Sorry(f"{name}: the image_range of scan {number} is {shown}; mend it") from None
    for model in MODELS:
        for number, of_model in enumerate(_dictionaries(content, model)):
            for key, points in of_model.items():
                if key.endswith("_scan_points") and isinstance(points, list):
                    if len(points) > longest:
                        raise Sorry(
                            f"{name}: {key} of {model} {number} has {len(points)} points, more "
                            "than any of its scans has images; mend it"
                        )
    for number, experiment in enumerate(_dictionaries(content, "experiment")):
        for model in (*MODELS, "imageset", "profile", "scaling_model"):
            if isinstance(experiment.get(model), str):
                raise Sorry(
                    f"{name}: the {model} of experiment {number} is in a file of its own, which is "
                    "not read; write the list anew with dials.import or dials.modify_geometry"
                )


def _dictionaries(content: dict, name: str) -> list[dict[str, Any]]:
    found = content.get(name)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
