"""The image format class of the SMV files this program writes.

The stock class reads the same geometry; this one gives all that was simulated: sensor, gain,
pedestal, whether 0 is trusted, crystal.
"""

from __future__ import annotations

from dxtbx.format.FormatSMV import FormatSMV
from dxtbx.format.FormatSMVRigakuSaturn import FormatSMVRigakuSaturn

from nanobragg_plugin.format.header_models import HeaderModels


class FormatSMVNanoBragg(HeaderModels, FormatSMVRigakuSaturn):
    """SMV written by nanobragg.simulate."""

    @staticmethod
    def understand(image_file):
        """Whether the header has our models."""
        return "NANOBRAGG_MODELS" in FormatSMV.get_smv_header(image_file)[1]

    def _text_of_models(self) -> str:
        return self._header_dictionary["NANOBRAGG_MODELS"]

    def detectorbase_start(self):
        """Old readers of iotbx are not needed."""
