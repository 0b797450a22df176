"""Our own group in an NXmx file: the exact dxtbx models as JSON, and where they came from.

What NXmx (or its stock readers) cannot say stands here: the beam's direction, polarization and
flux, the detector's hierarchy, the image numbers, the crystal, values at scan points.
"""

from __future__ import annotations

import json

import h5py
from dxtbx.model import (
    BeamFactory,
    CrystalFactory,
    DetectorFactory,
    Experiment,
    GoniometerFactory,
    MultiAxisGoniometer,
    ScanFactory,
)
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.trusted_range import trusted_range_is_inclusive

GROUP = "/entry/nanobragg"
#: Expected photons of the pixels, laid out as /entry/data/data; not every file has them.
EXPECTED = f"{GROUP}/expected"
MAPS = f"{GROUP}/maps"
FORMAT_VERSION = 1

_FACTORIES = {
    "beam": BeamFactory,
    "detector": DetectorFactory,
    "goniometer": GoniometerFactory,
    "scan": ScanFactory,
    "crystal": CrystalFactory,
}
_ROTATIONS = ("fixed_rotation", "setting_rotation")


def find_group(handle: h5py.File) -> h5py.Group | None:
    """Our group of an open file, or None where the file is not ours."""
    group = handle.get(GROUP)
    if isinstance(group, h5py.Group) and "format_version" in group.attrs and "models" in group:
        return group
    return None


def read_group(handle: h5py.File, path: str) -> tuple[Experiment, dict]:
    """The models of an open file as an Experiment without images, and the provenance.

    ``path`` is for the message only. Raises Sorry for a file of another program or of a later
    version of this one.
    """
    group = find_group(handle)
    if group is None:
        raise Sorry(f"{path} holds no nanobragg models: it was not written by this program")
    version = int(group.attrs["format_version"])
    if version > FORMAT_VERSION:
        raise Sorry(
            f"{path} was written by a later nanobragg (format {version}; this one reads "
            f"{FORMAT_VERSION}): install a newer nanobragg to read it"
        )
    experiment = experiment_from_dict(json.loads(group["models"].asstr()[()]))
    return experiment, json.loads(group["provenance"].asstr()[()])


def read_models(path) -> Experiment:
    """The exact models a file was written from: detector, beam, goniometer, scan, crystal."""
    with h5py.File(path, "r") as handle:
        return read_group(handle, str(path))[0]


def read_provenance(path) -> dict:
    """What the program that wrote the file said about how it was made."""
    with h5py.File(path, "r") as handle:
        return read_group(handle, str(path))[1]


def experiment_to_dict(experiment) -> dict:
    """A dictionary for JSON with every model, exact to the last bit of a float64 or so."""
    result = {
        "identifier": experiment.identifier,
        "trusted_range_inclusive": trusted_range_is_inclusive(),
    }
    for name in _FACTORIES:
        model = getattr(experiment, name)
        result[name] = None if model is None else model.to_dict()
    if isinstance(experiment.goniometer, MultiAxisGoniometer):
        # dxtbx saves the axes only; refinement may have set other rotations than theirs
        result["goniometer_rotations"] = {
            name: getattr(experiment.goniometer, f"get_{name}")() for name in _ROTATIONS
        }
    return result


def experiment_from_dict(obj: dict) -> Experiment:
    """The inverse of `experiment_to_dict`."""
    if obj["detector"] is not None:
        _convert_trusted_ranges(obj["detector"], obj["trusted_range_inclusive"])
    models = {
        name: None if obj[name] is None else factory.from_dict(obj[name])
        for name, factory in _FACTORIES.items()
    }
    for name, matrix in obj.get("goniometer_rotations", {}).items():
        goniometer = models["goniometer"]
        current = getattr(goniometer, f"get_{name}")()
        if max(abs(a - b) for a, b in zip(current, matrix)) > 1e-12:
            getattr(goniometer, f"set_{name}")(matrix)
    return Experiment(identifier=obj["identifier"], **models)


def _convert_trusted_ranges(detector: dict, was_inclusive: bool) -> None:
    """Bring the trusted ranges of a saved detector to the convention of this dxtbx.

    As dxtbx itself did when it changed: the lower end moves by one, the upper end stays.
    """
    step = int(trusted_range_is_inclusive()) - int(was_inclusive)
    if step == 0:
        return
    for panel in detector["panels"]:
        low, high = panel["trusted_range"]
        if low < high:
            panel["trusted_range"] = [low + step, high]
