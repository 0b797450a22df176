"""What newer versions of dxtbx have, written after their sources: classes to stand in for theirs.

Each says which function of which tag it follows. They are built upon the classes of the dxtbx that
is there, so that an Experiment takes them.
"""

from __future__ import annotations

import math
import pickle
from typing import Any

from dxtbx.model import Beam, Experiment, ExperimentList, Panel, Scan
from scitbx.array_family import flex


class InclusivePanel(Panel):
    """v3.12.0, panel.h, is_value_in_trusted_range."""

    def is_value_in_trusted_range(self, value: float) -> bool:
        low, high = self.get_trusted_range()
        return low <= value <= high


class ExclusivePanel(Panel):
    """v3.11.2, the same."""

    def is_value_in_trusted_range(self, value: float) -> bool:
        low, high = self.get_trusted_range()
        return low <= value < high


class BeamWithProbe(Beam):
    """v3.16.0, beam.h: a Beam knows its probe."""

    probe = "x-ray"

    def get_probe(self) -> str:
        return self.probe

    def set_probe(self, probe: str) -> None:
        self.probe = probe

    def get_probe_name(self) -> str:
        return self.probe


class PolychromaticBeam(BeamWithProbe):
    """v3.16.0, beam.h: these functions of PolychromaticBeam throw."""

    def _none(self, *args: Any) -> None:
        raise RuntimeError("dxtbx Error: PolychromaticBeam has no fixed s0")

    get_wavelength = set_wavelength = get_s0 = set_s0 = _none
    get_s0_at_scan_points = set_s0_at_scan_points = reset_scan_points = _none
    num_scan_points = property(_none)


class PolychromaticBeamOfRange(PolychromaticBeam):
    """v3.19.0, beam.h: get_wavelength_range, (0, 0) unless it was set."""

    limits = (0.0, 0.0)

    def get_wavelength_range(self) -> tuple[float, float]:
        return self.limits

    def set_wavelength_range(self, limits: tuple[float, float]) -> None:
        self.limits = tuple(limits)


class TableScan(Scan):
    """v3.18.0 and later, scan.h and scan.cc: the images and a table of properties, which asserts
    that it has what it is asked for. Angles in degrees, as its to_dict has them.
    """

    def __init__(self, image_range: Any, table: dict[str, list], batch_offset: int = 0) -> None:
        super().__init__(tuple(image_range), (0.0, 0.0), batch_offset)
        self.table = table

    def has_property(self, key: str) -> bool:
        return key in self.table

    def get_property(self, key: str) -> list:
        if key not in self.table:
            raise RuntimeError(f'dxtbx Internal Error: DXTBX_ASSERT(properties_.contains("{key}"))')
        return self.table[key]

    def get_oscillation(self, deg: bool = True) -> tuple[float, float]:
        angles = self.get_property("oscillation")
        one = len(angles) == 1
        width = self.get_property("oscillation_width")[0] if one else angles[1] - angles[0]
        factor = 1.0 if deg else math.pi / 180
        return angles[0] * factor, width * factor

    def get_angle_from_array_index(self, index: float, deg: bool = True) -> float:
        start, width = self.get_oscillation(deg)
        return start + width * (index - self.get_array_range()[0])

    def get_image_oscillation(self, image: int, deg: bool = True) -> tuple[float, float]:
        return self.get_angle_from_array_index(image - 1, deg), self.get_oscillation(deg)[1]

    def get_exposure_times(self) -> Any:
        return flex.double(self.get_property("exposure_time"))

    def get_epochs(self) -> Any:
        return flex.double(self.get_property("epochs"))

    def is_still(self) -> bool:
        if "time_of_flight" in self.table:
            return False
        return "oscillation" not in self.table or abs(self.get_oscillation(False)[1]) < 1e-7

    def __getitem__(self, item: Any) -> TableScan:
        item = item if isinstance(item, slice) else slice(item, item + 1)
        table = {key: values[item] for key, values in self.table.items()}
        if "oscillation" in table and len(table["oscillation"]) == 1:
            table["oscillation_width"] = [self.get_oscillation()[1]]
        first = self.get_image_range()[0]
        images = first + item.start, first + item.stop - 1
        return TableScan(images, table, self.get_batch_offset())

    def to_dict(self) -> dict:
        return {
            "image_range": self.get_image_range(),
            "batch_offset": self.get_batch_offset(),
            "properties": {key: list(values) for key, values in self.table.items()},
            "valid_image_ranges": {},
        }


class TableScanFactory:
    """v3.18.0 and later, scan.py and scan.cc, from_dict of a whole dictionary, old or new."""

    @staticmethod
    def from_dict(saved: dict) -> TableScan:
        first, last = saved["image_range"]
        count = last - first + 1
        if "properties" in saved:
            table = saved["properties"]
        else:
            assert isinstance(saved["exposure_time"], list)
            start, width = saved["oscillation"]
            table = {name: list(saved[name]) for name in ("exposure_time", "epochs")}
            table["oscillation"] = [start + i * width for i in range(count)]
            if count == 1:
                table["oscillation_width"] = [width]
        assert all(len(values) == count for values in table.values())
        return TableScan((first, last), table, saved["batch_offset"])


class History:
    """v3.26.0, history.h: lines `time|command|version`."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def append_history_item(self, command: str, version: str, flag: str) -> None:
        assert flag == ""  # then it is left out
        self.lines.append(f"2026-01-01T00:00:00Z|{command}|{version}")


class ListWithHistory(ExperimentList):
    """v3.26.0, model/__init__.py: to_dict has a history; only as_json adds a line to it."""

    def __init__(self, experiments: list[Experiment]) -> None:
        super().__init__(experiments)
        self.history = History()

    def consolidate_histories(self) -> History:
        return self.history

    def to_dict(self) -> dict:
        return {**super().to_dict(), "history": self.history.lines}


def load_pickle_path(self: Any, imageset_data: dict, param: str) -> tuple[str, Any]:
    """v3.22.0, experiment_list.py, ExperimentListDict._load_pickle_path: whether the format is to
    be checked or not."""
    from dxtbx.serialize.filename import resolve_path

    if param not in imageset_data:
        return "", None
    name, data = resolve_path(imageset_data[param], directory=self._directory), None
    try:
        with open(name, "rb") as stream:
            data = pickle.load(stream, encoding="bytes")
    except OSError:
        pass
    return name, data
