"""Writes simulated images as full imgCIF/CBF files, one an image, that stock dxtbx reads.

A miniCBF header knows only detectors that face a beam along z; the axes of a full one hold any.
"""

from __future__ import annotations

import errno
import logging
import math
import textwrap

import numpy as np
import pycbf
from libtbx.utils import Sorry

from nanobragg_plugin.format.cbf_tables import panel_name, tables
from nanobragg_plugin.format.image_files import FilePerImage, exclusive_range, models_of_image
from nanobragg_plugin.format.nxmx_frames import scan_axes

logger = logging.getLogger("dials.nanobragg_plugin.format.cbf_writer")

#: The item with the exact models, which no reader but ours looks at.
MODELS = "nanobragg", "models"


class CbfWriter(FilePerImage):
    """See `FilePerImage`. Pixels are int32, compressed by byte offset, but for those of the first
    panel of several and those of stills, which are packed (CCP4's). Bad pixels get imgCIF's
    undefined value, which is the largest whole number below the panel's trusted range.

    Raises Sorry for what a CBF file, or the stock reader of one, does not hold.
    """

    dtype = np.dtype("int32")
    kind = "CBF"
    mend = "use output.format=raw, or set detector.saturation_adu"

    def __init__(self, template, experiment, **options):
        super().__init__(template, experiment, **options)
        one_of_a_scan = len(self._shapes) == 1 and bool(scan_axes(experiment, 0)[0])
        # stock dxtbx's class for byte offset, which it asks first, looks at the first array of a
        # file, and knows neither several panels nor stills: that array is packed in these
        self._first = "byte_offset" if one_of_a_scan else "packed"
        for number, bad in enumerate(self._bad):
            if bad.any() and self.bad_value(number) is None:
                logger.warning(
                    "Nothing marks the %d bad pixels of panel %d in CBF files: it has no trusted "
                    "range outside which they could be set",
                    bad.sum(),
                    number,
                )

    @classmethod
    def check(cls, experiment) -> None:
        super().check(experiment)
        sizes = sorted({panel.get_image_size() for panel in experiment.detector})
        if len(sizes) > 1:
            raise Sorry(
                f"CBF files are not read right with panels of different sizes, and these have "
                f"{sizes} pixels (fast, slow): use output.format=nxmx"
            )

    def bad_value(self, panel: int) -> float | None:
        low, high = exclusive_range(self._experiment.detector[panel])
        if not np.iinfo(self.dtype).min <= low < high:
            return None
        return math.floor(low)

    def _write_file(self, path, index: int, panels: list[np.ndarray]) -> None:
        handle = pycbf.cbf_handle_struct()
        handle.new_datablock(f"image_{self._numbers[index]:05d}".encode())
        for name, columns, rows in self._tables(index):
            _add(handle, name, columns, rows)
        text = models_of_image(self.models(index), index, self._provenance)
        _add(handle, MODELS[0], MODELS[1:], [("\n".join(textwrap.wrap(text, 76)),)])
        _add(handle, "array_data", ("array_id", "binary_id", "data"), [])
        for i, values in enumerate(panels):
            self._add_pixels(handle, i, values)
        flags = pycbf.MIME_HEADERS | pycbf.MSG_DIGEST | pycbf.PAD_4K
        try:
            handle.write_widefile(str(path).encode(), pycbf.CBF, flags, 0)
        except Exception as error:  # pycbf has no other class
            raise OSError(errno.EIO, " ".join(str(error).split())) from error

    def _tables(self, index: int) -> list:
        others = ["byte_offset"] * (len(self._shapes) - 1)
        return tables(self.models(index), index, self._numbers[index], [self._first, *others])

    def _add_pixels(self, handle, panel: int, values: np.ndarray) -> None:
        handle.new_row()
        handle.rewind_column()
        for value in (panel_name(panel), str(panel + 1)):
            handle.set_value(value.encode())
            handle.next_column()
        slow, fast = values.shape
        packed = panel == 0 and self._first == "packed"
        compression = pycbf.CBF_PACKED if packed else pycbf.CBF_BYTE_OFFSET
        data = np.ascontiguousarray(values, "<i4").tobytes()
        handle.set_integerarray_wdims_fs(
            compression, panel + 1, data, 4, 1, values.size, b"little_endian", fast, slow, 1, 0
        )


def _add(handle, name: str, columns, rows) -> None:
    """A table to an open pycbf handle; numbers to the last bit of a float64."""
    handle.new_category(name.encode())
    for column in columns:
        handle.new_column(column.encode())
    for row in rows:
        handle.new_row()
        handle.rewind_column()
        for number, value in enumerate(row):
            if number:
                handle.next_column()
            text = repr(float(value)) if isinstance(value, float) else str(value)
            handle.set_value(text.encode())
            if value == ".":
                handle.set_typeofvalue(b"null")
