"""The image format class of the CBF files this program writes.

Stock classes read the same geometry; this one gives all that was simulated: sensor, pedestal,
polarization, crystal.
"""

from __future__ import annotations

import numpy as np
from dxtbx import flumpy
from dxtbx.format.FormatCBF import FormatCBF
from dxtbx.format.FormatCBFFull import FormatCBFFull

from nanobragg_plugin.format.header_models import HeaderModels


class FormatCBFNanoBragg(HeaderModels, FormatCBFFull):
    """CBF written by nanobragg.simulate."""

    @staticmethod
    def understand(image_file):
        """Whether the file has our models."""
        return "_nanobragg.models" in FormatCBF.get_cbf_header(image_file)

    def _text_of_models(self) -> str:
        handle = self._get_cbf_handle()
        handle.find_category(b"nanobragg")
        handle.find_column(b"models")
        handle.select_row(0)
        return handle.get_value().decode()

    def get_raw_data(self):
        """A flex.int of each panel, panels in the order of the detector."""
        if self._raw_data is None:
            handle = self._get_cbf_handle()
            handle.find_category(b"array_data")
            handle.find_column(b"data")
            panels = []
            for number, panel in enumerate(self.get_detector()):
                handle.select_row(number)
                values = np.frombuffer(handle.get_integerarray_as_string(), np.int32)
                fast, slow = panel.get_image_size()
                panels.append(flumpy.from_numpy(values.reshape(slow, fast).copy()))
            self._raw_data = tuple(panels)
        return self._raw_data

    def detectorbase_start(self):
        """Old readers of iotbx are not needed."""
