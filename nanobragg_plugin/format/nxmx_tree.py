"""What an NXmx file holds besides pixels: the NeXus groups, from dxtbx models.

The layout is the one that every dxtbx since 3.11 reads alike: a panel is a module whose origin
is a translation on which its two pixel directions depend, and which itself depends on one
translation that all modules share (newer dxtbx takes the first of a chain for the frame of the
whole detector); the modules lie one below the other in a single two-dimensional frame.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import h5py
import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin import __version__
from nanobragg_plugin.adapters import dxtbx_versions
from nanobragg_plugin.format.nxmx_frames import IMGCIF_TO_MCSTAS, goniometer_axes
from nanobragg_plugin.format.nxmx_models import (
    FORMAT_VERSION,
    GROUP,
    experiment_to_dict,
)

DETECTOR = "/entry/instrument/detector"
BEAM = "/entry/instrument/beam"
# NXbeam: the name of another field of the wavelength, here the lines of a spectrum, whose photons
# are in NAME_weights, https://manual.nexusformat.org/classes/base_classes/NXbeam.html
VARIANT = "incident_wavelength_1"
DISTANCE = f"{DETECTOR}/transformations/det_z"
TRANSFORMATIONS = "/entry/sample/transformations"

# The sensor materials stock dxtbx knows; it refuses a file with any other, or with none.
SENSOR_MATERIALS = ("Si", "Silicon", "CdTe", "GaAs")
# So a panel without a sensor is written as Si this thin, mm: dxtbx refuses zero, and the shift
# of a pixel by the parallax of such a sensor is below 1e-9 mm.
NO_SENSOR_MM = 1e-9

# NXdetector/pixel_mask, https://manual.nexusformat.org/classes/applications/NXmx.html
MASK_GAP = 1 << 0
MASK_USER = 1 << 8


@dataclass(frozen=True)
class FrameLayout:
    """Where the panels lie in the frame: one below the other, in slots of one height.

    ``sizes`` are (slow, fast) of each panel, pixels. Slots of one height make chunks of one panel;
    full rows make a panel contiguous, which dxtbx 3.11 needs to cut a mask.
    """

    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, detector) -> FrameLayout:
        return cls(tuple((p.get_image_size()[1], p.get_image_size()[0]) for p in detector))

    @property
    def slot(self) -> int:
        return max(slow for slow, _ in self.sizes)

    @property
    def width(self) -> int:
        return max(fast for _, fast in self.sizes)

    @property
    def shape(self) -> tuple[int, int]:
        return self.slot * len(self.sizes), self.width

    @property
    def equal_widths(self) -> bool:
        return all(fast == self.width for _, fast in self.sizes)

    def place(self, panels, dtype, fill=0) -> np.ndarray:
        """A frame ``[slow, fast, ...]`` with the arrays ``[slow, fast, ...]`` of all panels."""
        frame = np.full((*self.shape, *panels[0].shape[2:]), fill, dtype=dtype)
        for i, ((slow, fast), panel) in enumerate(zip(self.sizes, panels)):
            frame[i * self.slot : i * self.slot + slow, :fast] = panel
        return frame

    def cut(self, frame: np.ndarray) -> list[np.ndarray]:
        """The inverse of `place`: an array ``[slow, fast]`` for each panel, contiguous."""
        return [
            np.ascontiguousarray(frame[i * self.slot : i * self.slot + slow, :fast])
            for i, (slow, fast) in enumerate(self.sizes)
        ]


def write_tree(
    handle: h5py.File, experiment, num_images: int, rotation: np.ndarray, spectrum=None
) -> None:
    """All groups of the file but the pixels, the mask and our own.

    ``rotation`` takes dxtbx's laboratory to the file's, `nxmx_frames.lab_rotation`; ``spectrum``:
    wavelengths, Angstrom, and the photons of each, or None.
    """
    to_file = IMGCIF_TO_MCSTAS @ rotation
    entry = _group(handle, "/entry", "NXentry")
    entry["definition"] = "NXmx"
    entry["program_name"] = "nanobragg"
    entry["program_name"].attrs["version"] = __version__
    source = _group(handle, "/entry/source", "NXsource")
    source["name"] = "nanobragg simulation"
    source["probe"] = "x-ray"
    _group(handle, "/entry/instrument", "NXinstrument")["name"] = "nanobragg simulation"
    _write_beam(handle, experiment.beam, spectrum)
    _write_detector(handle, experiment.detector, experiment.scan)
    _write_modules(handle, experiment.detector, to_file)
    _write_data(handle, experiment.detector)
    _write_sample(handle, experiment, num_images, to_file)


def write_own_group(handle: h5py.File, experiment, rotation, content: str, provenance) -> None:
    """Our own group: models and provenance as JSON, the rotation of the laboratory ``[3, 3]``."""
    group = _group(handle, GROUP, "NXcollection")
    group.attrs["format_version"] = FORMAT_VERSION
    group.attrs["content"] = content
    group["models"] = json.dumps(experiment_to_dict(experiment))
    group["provenance"] = json.dumps(provenance or {})
    group["lab_rotation"] = rotation
    group["lab_rotation"].attrs["description"] = (
        "takes a vector of the models' laboratory (imgCIF axes) to that of this file"
    )


def write_mask(handle: h5py.File, detector, layout: FrameLayout, mask, chunking: dict) -> None:
    """The bad pixels, if there are any: the caller's and the panels' untrusted rectangles.

    ``mask``: for each panel an array of bool ``[slow, fast]``, True where the pixel is good; or
    None. Panels of unequal widths have it as ``pixel_mask_1``, which NXmx allows and stock dxtbx
    passes over: dxtbx 3.11 fails to cut such a panel out of ``pixel_mask``.
    """
    good = [panel.get_untrusted_rectangle_mask().as_numpy_array() for panel in detector]
    if mask is not None:
        given = [
            m.as_numpy_array() if hasattr(m, "as_numpy_array") else np.asarray(m) for m in mask
        ]
        if [m.shape for m in given] != [g.shape for g in good]:
            raise Sorry(
                f"The mask has panels of {[m.shape for m in given]} pixels (slow, fast), the "
                f"detector {[g.shape for g in good]}: give one array for each panel"
            )
        good = [g & m.astype(bool) for g, m in zip(good, given)]
    if all(g.all() for g in good):
        return
    frame = layout.place([np.where(g, 0, MASK_USER) for g in good], np.uint32, fill=MASK_GAP)
    name = "pixel_mask" if layout.equal_widths else "pixel_mask_1"
    handle[DETECTOR].create_dataset(name, data=frame, **{**chunking, "chunks": frame.shape})


def trusted_limits(detector) -> tuple[int, int] | None:
    """The underload and saturation value of NXmx, one pair for all panels, or None if not set.

    What the stock reader of this dxtbx makes the panels' own trusted range of again. Where panels
    differ, the range that all of them trust.
    """
    ranges = [r for r in (panel.get_trusted_range() for panel in detector) if r[0] < r[1]]
    if not ranges:
        return None
    inclusive = dxtbx_versions.trusted_range_is_inclusive()
    low = np.floor(max(r[0] for r in ranges)) + (0 if inclusive else 1)
    high = np.floor(min(r[1] for r in ranges))
    # the stock readers' own limits; infinity has no integer
    return int(max(low, -(2**31))), int(min(high, 2**31 - 1))


def _write_beam(handle: h5py.File, beam, spectrum) -> None:
    try:
        wavelength = beam.get_wavelength()
    except (AttributeError, RuntimeError) as error:
        raise Sorry(
            "An NXmx file needs a beam of one wavelength, and this beam has none: "
            "give a monochromatic beam"
        ) from error
    group = _group(handle, BEAM, "NXbeam")
    dataset = _dataset(group, "incident_wavelength", wavelength, units="angstrom")
    if spectrum is not None:  # a variant: readers that know no spectra keep the one wavelength
        dataset.attrs["variant"] = VARIANT
        _dataset(group, VARIANT, spectrum[0], units="angstrom")
        group[f"{VARIANT}_weights"] = spectrum[1]
    if beam.get_flux() > 0:
        _dataset(group, "total_flux", beam.get_flux(), units="Hz")


def _write_detector(handle: h5py.File, detector, scan) -> None:
    """NXdetector; what NXmx has only one of for all panels is that of the first panel."""
    group = _group(handle, DETECTOR, "NXdetector")
    group["depends_on"] = DISTANCE
    group["description"] = "simulated"
    panel = detector[0]
    known = panel.get_material() in SENSOR_MATERIALS
    sensed = known and panel.get_thickness() > NO_SENSOR_MM and panel.get_mu() > 0
    group["sensor_material"] = panel.get_material() if sensed else "Si"
    thickness = panel.get_thickness() if sensed else NO_SENSOR_MM
    _dataset(group, "sensor_thickness", thickness, units="mm")
    limits = trusted_limits(detector)
    if limits is not None:
        group["underload_value"], group["saturation_value"] = limits
    times = dxtbx_versions.exposure_times(scan)
    if times and min(times) > 0 and max(times) - min(times) <= 1e-9 * max(times):
        _dataset(group, "count_time", times[0], units="s")
        _dataset(group, "frame_time", times[0], units="s")


def _write_modules(handle: h5py.File, detector, to_file: np.ndarray) -> None:
    """The panels. ``to_file`` takes dxtbx's laboratory to the McStas frame of the file."""
    layout = FrameLayout.of(detector)
    along_beam = np.array([0.0, 0.0, 1.0])
    origins = [to_file @ np.array(panel.get_origin()) for panel in detector]
    distance = np.mean([origin @ along_beam for origin in origins])
    shared = _group(handle, f"{DETECTOR}/transformations", "NXtransformations")
    _axis(shared, "det_z", distance, along_beam, "translation", "mm")
    for i, (panel, origin) in enumerate(zip(detector, origins)):
        # readers take modules in the order of their names
        path = f"{DETECTOR}/module_{i:05d}"
        group = _group(handle, path, "NXdetector_module")
        group["data_origin"] = np.array([i * layout.slot, 0])
        group["data_size"] = np.array(layout.sizes[i])
        group["data_stride"] = np.array([1, 1])
        offset = origin - distance * along_beam
        length = np.linalg.norm(offset)
        direction = offset / length if length > 0 else along_beam
        axis = _axis(group, "module_offset", length, direction, "translation", "mm")
        axis.attrs["depends_on"] = DISTANCE
        for name, vector, size in (
            ("fast_pixel_direction", panel.get_fast_axis(), panel.get_pixel_size()[0]),
            ("slow_pixel_direction", panel.get_slow_axis(), panel.get_pixel_size()[1]),
        ):
            axis = _axis(group, name, size, to_file @ np.array(vector), "translation", "mm")
            axis.attrs["depends_on"] = f"{path}/module_offset"


def _write_data(handle: h5py.File, detector) -> None:
    """NXdata, to which the writer adds the pixels; the gain where it is one for all panels."""
    group = _group(handle, "/entry/data", "NXdata")
    group.attrs["signal"] = "data"
    gains = {panel.get_gain() for panel in detector}
    if len(gains) == 1 and gains != {1.0} and min(gains) > 0:
        group["data_scale_factor"] = 1.0 / gains.pop()


def _write_sample(handle: h5py.File, experiment, num_images: int, to_file: np.ndarray) -> None:
    """NXsample with the goniometer and the scan's angles; images that do not turn have none."""
    group = _group(handle, "/entry/sample", "NXsample")
    group["name"] = "simulated crystal"
    scan, goniometer = experiment.scan, experiment.goniometer
    if goniometer is None or not dxtbx_versions.is_rotation(scan):
        group["depends_on"] = "."
        return
    transformations = _group(handle, TRANSFORMATIONS, "NXtransformations")
    start, width = scan.get_oscillation(deg=True)
    # a scan that turns backwards is one that turns forwards about the opposite axis: the stock
    # reader of a single-axis goniometer cannot turn backwards
    sign = -1.0 if width < 0 else 1.0
    outer = "."
    for axis in reversed(goniometer_axes(goniometer, num_images)):
        vector = to_file @ axis.vector / np.linalg.norm(axis.vector)
        if axis.scans:
            begin = sign * (start + width * np.arange(num_images))
            end = sign * (start + width * np.arange(1, num_images + 1))
            dataset = _axis(transformations, axis.name, begin, sign * vector, "rotation", "deg")
            _dataset(transformations, f"{axis.name}_end", end, units="deg")
        else:
            dataset = _axis(transformations, axis.name, axis.angle, vector, "rotation", "deg")
        dataset.attrs["depends_on"] = outer
        outer = dataset.name
    group["depends_on"] = outer


def _group(handle: h5py.File, path: str, nx_class: str) -> h5py.Group:
    group = handle.create_group(path)
    group.attrs["NX_class"] = nx_class
    return group


def _dataset(group: h5py.Group, name: str, value, units: str) -> h5py.Dataset:
    dataset = group.create_dataset(name, data=value)
    dataset.attrs["units"] = units
    return dataset


def _axis(group: h5py.Group, name: str, value, vector, kind: str, units: str) -> h5py.Dataset:
    """A transformation of NeXus that depends on nothing yet."""
    dataset = _dataset(group, name, value, units)
    dataset.attrs["vector"] = np.asarray(vector, dtype=np.float64)
    dataset.attrs["transformation_type"] = kind
    dataset.attrs["depends_on"] = "."
    return dataset
