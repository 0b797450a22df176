"""Writes simulated images as SMV files, one an image, for DIALS.

The header is d*TREK's, of which dxtbx's class for Rigaku Saturn detectors reads any position of a
single panel, any direction of the beam and any rotation axis. It is not nanoBragg.c's header:
dxtbx's class for that one takes the origin for another (`classic_files` writes it).
"""

from __future__ import annotations

import datetime

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.format.classic_files import HEADER_BLOCK
from nanobragg_plugin.format.image_files import (
    FilePerImage,
    exclusive_range,
    models_of_image,
    times_of_image,
)
from nanobragg_plugin.format.nxmx_frames import scan_axes

MODELS_KEY = "NANOBRAGG_MODELS"
#: The prefix of the detector's keys.
PREFIX = "NB_"
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


class SmvWriter(FilePerImage):
    """See `FilePerImage`. Pixels are uint16, whole numbers from 0 to 65535; the panel's trusted
    range must lie within (see `run.writers.fit_panels`). Bad pixels are 65535, which no panel
    trusts.
    """

    dtype = np.dtype("uint16")
    kind = "SMV"
    mend = "give more detector.adc_offset_adu, or use output.format=cbf"

    @classmethod
    def check(cls, experiment) -> None:
        super().check(experiment)
        if len(experiment.detector) != 1:
            raise Sorry(
                f"An SMV file holds one panel, the detector has {len(experiment.detector)}: use "
                "output.format=nxmx or cbf"
            )
        low, high = exclusive_range(experiment.detector[0])
        if not -1 <= low < high <= 65535:
            raise Sorry(
                f"The panel trusts values from {low:g} to {high:g}, SMV holds 0 to 65535: set "
                "geometry.detector.panel.trusted_range within -1,65535, or output.format=cbf"
            )

    def bad_value(self, panel: int) -> float:
        return 65535

    def _write_file(self, path, index: int, panels: list[np.ndarray]) -> None:
        text = models_of_image(self.models(index), index, self._provenance)
        header = header_bytes([*header_items(self.models(index), index), (MODELS_KEY, text)])
        path.write_bytes(header + panels[0].astype("<u2").tobytes())


def header_bytes(items: list[tuple]) -> bytes:
    """Keys and values between braces, padded with spaces to the HEADER_BYTES that it states."""
    size = HEADER_BLOCK
    while True:
        lines = [f"{key}={_text(value)};" for key, value in (("HEADER_BYTES", size), *items)]
        data = "\n".join(["{", *lines, "}\n\f"]).encode("ascii", "replace")
        if len(data) <= size:
            return data.ljust(size)
        size = -(-len(data) // HEADER_BLOCK) * HEADER_BLOCK


def header_items(experiment, index: int) -> list[tuple]:
    """d*TREK's keys, lengths in mm, angles in degrees, for image ``index`` from 0."""
    panel, beam = experiment.detector[0], experiment.beam
    fast_size, slow_size = panel.get_image_size()
    lengths = [n * size for n, size in zip(panel.get_image_size(), panel.get_pixel_size())]
    direction, fraction = beam.get_sample_to_source_direction(), beam.get_polarization_fraction()
    # the place of the pixel (0, 0), from which the translations start
    corner = (0, 0, *panel.get_pixel_size())
    _, high = exclusive_range(panel)
    detector = [
        ("DETECTOR_DESCRIPTION", "nanobragg simulation (header as of a Saturn)"),
        ("DETECTOR_DIMENSIONS", (fast_size, slow_size)),
        ("DETECTOR_SIZE", lengths),
        ("DETECTOR_VECTORS", (*panel.get_fast_axis(), *panel.get_slow_axis())),
        ("GONIO_NUM_VALUES", 3),
        ("GONIO_NAMES", ("TransX", "TransY", "TransZ")),
        ("GONIO_UNITS", ("mm", "mm", "mm")),
        ("GONIO_VALUES", panel.get_origin()),
        ("GONIO_VECTORS", (1, 0, 0, 0, 1, 0, 0, 0, 1)),
        ("SPATIAL_DISTORTION_TYPE", "Simple_spatial"),
        ("SPATIAL_DISTORTION_INFO", corner),
        ("SPATIAL_DISTORTION_VECTORS", (1, 0, 0, 1)),
        ("SPATIAL_BEAM_POSITION", (0, 0)),
    ]
    return [
        ("DIM", 2),
        ("BYTE_ORDER", "little_endian"),
        ("TYPE", "unsigned_short"),
        ("Data_type", "unsigned short int"),
        ("SIZE1", fast_size),
        ("SIZE2", slow_size),
        ("SATURATED_VALUE", int(high) - 1),  # newer dxtbx trusts it, older does not
        ("DETECTOR_NUMBER", 1),
        ("DETECTOR_NAMES", PREFIX),
        *((PREFIX + key, value) for key, value in detector),
        ("SOURCE_VECTORS", direction),
        ("SOURCE_WAVELENGTH", (1, beam.get_wavelength())),
        ("SCAN_WAVELENGTH", beam.get_wavelength()),
        ("SOURCE_POLARZ", (fraction, *beam.get_polarization_normal())),
        *_rotation(experiment, index),
    ]


def _rotation(experiment, index: int) -> list[tuple]:
    """The goniometer, and the rotation of one image; of a still, one of 0 degrees about x."""
    exposure, moment = times_of_image(experiment.scan, index)
    axes, start, width = scan_axes(experiment, index)
    names, values, vectors, scanned, vector = ["omega"], [0.0], [(1, 0, 0)], "omega", (1, 0, 0)
    if axes:
        names = [_word(axis.name) for axis in axes]
        values = [start if axis.scans else axis.angle for axis in axes]
        vectors = [axis.vector / np.linalg.norm(axis.vector) for axis in axes]
        (scanned,) = (name for name, axis in zip(names, axes) if axis.scans)
        vector = experiment.goniometer.get_rotation_axis()
    # d*TREK has the axis next to the crystal last
    outwards = [x for one in reversed(vectors) for x in one]
    return [
        ("CRYSTAL_GONIO_NUM_VALUES", len(names)),
        ("CRYSTAL_GONIO_NAMES", names[::-1]),
        ("CRYSTAL_GONIO_UNITS", ["deg"] * len(names)),
        ("CRYSTAL_GONIO_VALUES", values[::-1]),
        ("CRYSTAL_GONIO_VECTORS", outwards),
        ("ROTATION", (start, start + width, width, exposure, 0, 0, 0, 0, 0, 0)),
        ("ROTATION_AXIS_NAME", scanned),
        ("ROTATION_VECTOR", vector),
        ("DTREK_DATE_TIME", _date(moment)),
    ]


def _date(at: datetime.datetime) -> str:
    """As dxtbx expects it, in English whatever the locale; whole seconds."""
    return f"{at.day:02d}-{MONTHS[at.month - 1]}-{at.year:04d} {at:%H:%M:%S}"


def _word(name: str) -> str:
    """A name without what separates names, keys and lines."""
    return "_".join(name.replace("=", "_").replace(";", "_").split()) or "axis"


def _text(value) -> str:
    """Numbers to the last bit of a float64, lists separated by spaces."""
    if isinstance(value, str):
        return value
    if np.ndim(value):
        return " ".join(_text(one) for one in value)
    return repr(float(value)) if isinstance(value, (float, np.floating)) else str(value)
