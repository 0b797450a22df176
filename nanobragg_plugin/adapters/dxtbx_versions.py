"""Where versions of dxtbx differ: what each of them says, in one way.

Asked by what an object can do, not by a number: Debian's 3.11 has none of what came later. What
came when was read in dxtbx's sources (CHANGELOG.rst and tags, up to 3.28). Imports no torch: the
image format classes need it.

* 3.12: the trusted range is inclusive; format classes of NXmx read a spectrum.
* 3.16: `Probe` and `PolychromaticBeam`; 3.17 its distance from the sample; 3.19 its range of
  wavelengths.
* 3.18: a scan is a table of properties, any of which may be missing, the oscillation too.
* 3.22: masks, gains and pedestals are unpickled also where images are not asked for
  (`load.check_lookups` looks at them before).
* 3.26: an experiment list says who wrote it (`history`); raw data may be unsigned.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from functools import cache
from typing import Any

from dxtbx.model import Panel, Scan
from libtbx.utils import Sorry

#: The distribution that the commands `nanobragg.*` belong to.
DISTRIBUTION = "nanobragg"
#: Choices of dxtbx's beam_phil_scope (from 3.16 on) that are set where nobody set them.
BEAM_CHOICES = {"type": "monochromatic", "probe": "x-ray"}
#: What a PolychromaticBeam has in common with a Beam, as far as this dxtbx knows it.
_OF_BEAM = (
    *("divergence", "sigma_divergence", "polarization_normal", "polarization_fraction"),
    *("flux", "transmission", "probe", "sample_to_source_distance"),
)


@cache
def trusted_range_is_inclusive() -> bool:
    """Whether this dxtbx trusts a value equal to the upper end (from 3.12 on) or not."""
    panel = Panel()
    panel.set_trusted_range((0, 1))
    return panel.is_value_in_trusted_range(1)


def trusted_range_here(limits: Sequence[float], was_inclusive: bool) -> list[float]:
    """A trusted range that a dxtbx of one convention saved, in the convention of this one.

    As dxtbx itself did when it changed: the lower end moves by one, the upper end stays.
    """
    low, high = limits
    step = int(trusted_range_is_inclusive()) - int(was_inclusive)
    return [low + step if low < high else low, high]


def is_polychromatic(beam: Any) -> bool:
    """Whether a beam has neither a wavelength nor s0 (a PolychromaticBeam raises for both)."""
    return hasattr(beam, "get_wavelength_range") or any(
        kind.__name__ == "PolychromaticBeam" for kind in type(beam).__mro__
    )


def require_s0(beam: Any, what: str) -> None:
    """`Sorry` for a polychromatic beam where one wavelength is needed; what: its name."""
    if is_polychromatic(beam):
        raise Sorry(f"{what} is polychromatic: it has no wavelength to compare or draw rings with")


def wavelength_range(beam: Any) -> tuple[float, float]:
    """Angstrom, of a polychromatic beam; (0, 0), as dxtbx has it, where there is none (before 3.19
    there is none of any)."""
    return tuple(beam.get_wavelength_range()) if hasattr(beam, "get_wavelength_range") else (0, 0)


def probe_name(beam: Any) -> str:
    """x-ray (all there is before 3.16), electron or neutron."""
    return beam.get_probe_name() if hasattr(beam, "get_probe_name") else "x-ray"


def copy_beam(source: Any, beam: Any) -> None:
    """Give a beam all that another one is, but for direction and wavelength."""
    for name in _OF_BEAM:
        if hasattr(source, f"get_{name}") and hasattr(beam, f"set_{name}"):
            getattr(beam, f"set_{name}")(getattr(source, f"get_{name}")())


def scan_points(model: Any) -> int:
    """Number of scan points of a crystal, beam or goniometer; 0 of a static model."""
    try:
        return int(model.num_scan_points)
    except RuntimeError:  # a PolychromaticBeam raises
        return 0


def _has(scan: Any, name: str) -> bool:
    """Whether a scan has a property; before 3.18 every scan has every one it can have."""
    return scan.has_property(name) if hasattr(scan, "has_property") else True


def has_oscillation(scan: Any) -> bool:
    """Whether a scan has an oscillation: one of stills or times of flight need not."""
    return _has(scan, "oscillation")


def is_rotation(scan: Any) -> bool:
    """Whether a scan, or None, turns the crystal during an image."""
    return scan is not None and has_oscillation(scan) and not scan.is_still()


def is_time_of_flight(scan: Any) -> bool:
    """Whether the images of a scan, or None, are of times of flight (which is_still() denies)."""
    return hasattr(scan, "has_property") and scan.has_property("time_of_flight")


def exposure_times(scan: Any) -> list[float]:
    """s, of every image; empty where a scan, or None, has none."""
    known = scan is not None and _has(scan, "exposure_time")
    return [float(time) for time in scan.get_exposure_times()] if known else []


def epochs(scan: Any) -> list[float]:
    """s, of every image; empty where a scan, or None, has none."""
    known = scan is not None and _has(scan, "epochs")
    return [float(time) for time in scan.get_epochs()] if known else []


@cache
def scans_are_tables() -> bool:
    """Whether this dxtbx writes scans as tables (from 3.18 on); it then reads those before too."""
    return hasattr(Scan, "has_property")


def require_readable(content: dict, name: str) -> None:
    """`Sorry` for an experiment list, as JSON has it, whose scans this dxtbx cannot read."""
    scans = content.get("scan")
    scans = scans if isinstance(scans, list) else []
    tables = any(isinstance(one, dict) and "properties" in one for one in scans)
    if tables and not scans_are_tables():
        raise Sorry(
            f"{name} was written by dxtbx 3.18 or newer, whose scans the older one here cannot "
            "read: use it with a newer DIALS, or import the images anew with the one here"
        )


def scan_here(saved: dict) -> dict:
    """A scan's dictionary, of whatever dxtbx, as this one reads it.

    ValueError for one of times of flight, which an older dxtbx has no word for; of a table of other
    properties only what scans always had is kept.
    """
    if "properties" not in saved or scans_are_tables():
        return saved
    table = saved["properties"]
    if "time_of_flight" in table:
        raise ValueError("its scan is of times of flight, for which a newer dxtbx is needed")
    start, width = 0.0, 0.0
    if table.get("oscillation"):
        angles = table["oscillation"]
        start = angles[0]
        # of one image the width stands beside; of more the ends lose the least to rounding
        width = (
            table["oscillation_width"][0]
            if len(angles) == 1
            else (angles[-1] - start) / (len(angles) - 1)
        )
    return {
        **{name: value for name, value in saved.items() if name != "properties"},
        "oscillation": [start, width],
        **{name: list(table.get(name, ())) for name in ("exposure_time", "epochs")},
    }


def is_sequence(imageset: Any) -> bool:
    """Whether an image set is of a scan, whose images have numbers."""
    return hasattr(imageset, "get_array_range")


def note_history(experiments: Any, command: str) -> None:
    """Note who writes an experiment list, as dxtbx's own `as_json` does from 3.26 on; before,
    nothing.

    dxtbx finds the command by the module that calls it, which is none of a console script here.
    """
    if not hasattr(experiments, "consolidate_histories"):
        return
    try:
        version = f"v{importlib.metadata.version(DISTRIBUTION)}"
    except importlib.metadata.PackageNotFoundError:  # run from a folder, as dxtbx says it
        version = "v?"
    experiments.consolidate_histories().append_history_item(command, version, "")
