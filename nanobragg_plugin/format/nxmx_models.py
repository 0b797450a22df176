"""Our own group in an NXmx file: the exact dxtbx models as JSON, and where they came from.

What NXmx (or its stock readers) cannot say stands here: the beam's direction, polarization and
flux, the detector's hierarchy, the image numbers, the crystal, values at scan points.
"""

from __future__ import annotations

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
from nanobragg_plugin.format.nxmx_guard import member, read_json

GROUP = "/entry/nanobragg"
#: Expected photons of the pixels, laid out as /entry/data/data; not every file has them.
EXPECTED = f"{GROUP}/expected"
MAPS = f"{GROUP}/maps"
FORMAT_VERSION = 1
#: dxtbx keeps lists of them.
MAX_IMAGES = 1_000_000

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
    group = member(member(handle, "entry"), "nanobragg")
    if not isinstance(group, h5py.Group) or "format_version" not in group.attrs:
        return None
    return None if member(group, "models") is None else group


def read_group(handle: h5py.File, path: str) -> tuple[Experiment, dict]:
    """The models of an open file as an Experiment without images, and the provenance.

    ``path`` is for the message only. Raises Sorry for a file of another program or of a later
    version of this one, or a damaged one.
    """
    group = find_group(handle)
    if group is None:
        raise Sorry(f"{path} holds no nanobragg models: it was not written by this program")
    check_version(group.attrs["format_version"], path)
    experiment = experiment_of_stranger(read_json(group, "models", path), path)
    return experiment, read_json(group, "provenance", path)


def check_version(version, path) -> None:
    """Sorry for that of a later version of this program, and for what is none."""
    try:
        version = int(version)
    except (TypeError, ValueError, OverflowError) as error:
        raise Sorry(f"{path}: its nanobragg format version is no number") from error
    if version > FORMAT_VERSION:
        raise Sorry(
            f"{path} was written by a later nanobragg (format {version}; this one reads "
            f"{FORMAT_VERSION}): install a newer nanobragg to read it"
        )


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


def experiment_of_stranger(obj, path) -> Experiment:
    """`experiment_from_dict` of what a file holds; Sorry where it is not what was written."""
    try:
        check_scan(obj["scan"])
        experiment = experiment_from_dict(obj)
        if experiment.detector is None or experiment.beam is None:
            raise ValueError("there is no detector or no beam")
        return experiment
    # whatever dxtbx makes of dictionaries that are not its own
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise Sorry(f"{path}: the models in it are damaged: {reason}") from error


def check_scan(scan) -> None:
    """ValueError where dxtbx would make a list of more images than there can be."""
    if scan is None:
        return
    first, last = scan["image_range"]
    if not 0 <= int(last) - int(first) < MAX_IMAGES:
        raise ValueError(f"a scan of images {first} to {last}")


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
