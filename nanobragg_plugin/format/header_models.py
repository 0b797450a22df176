"""The exact models in the header of a file of one image, as our image format classes give them.

dxtbx imports this for every file of a kind that a user opens: nothing heavy belongs here.
"""

from __future__ import annotations

import base64
import json
import zlib

from libtbx.utils import Sorry

from nanobragg_plugin.format.nxmx_guard import loads
from nanobragg_plugin.format.nxmx_models import check_version, experiment_of_stranger

#: A header that unpacks to more is none of ours: files come from strangers.
MAX_BYTES = 1 << 24


def packed_text(content: dict) -> str:
    """A dictionary as JSON, compressed (deflate), in base64 without its padding: letters, digits,
    + and /, which mean nothing to CIF or SMV."""
    data = zlib.compress(json.dumps(content).encode())
    return base64.b64encode(data).decode().rstrip("=")


def unpacked_text(text: str) -> dict:
    """The inverse of `packed_text`, of a text that may have white space in it; ValueError."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has {len(text)} characters")
    code = "".join(text.split())
    unpack = zlib.decompressobj()
    try:
        data = unpack.decompress(base64.b64decode(code + "=" * (-len(code) % 4)), MAX_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not unpack.eof:
        raise ValueError("it is cut short, or unpacks to too much")
    content = loads(data)
    if not isinstance(content, dict):
        raise ValueError("it holds no models")
    return content


class HeaderModels:
    """A format class whose `_text_of_models` is what `image_files.models_of_image` returned."""

    def _start(self):
        super()._start()
        try:
            content = unpacked_text(self._text_of_models())
            version, models = content["format_version"], content["models"]
            self._provenance = content["provenance"]
        except (ValueError, KeyError, RecursionError) as error:
            raise Sorry(f"{self._image_file}: its nanobragg header is damaged: {error}") from error
        check_version(version, self._image_file)
        self._models = experiment_of_stranger(models, self._image_file)

    def _turns(self):
        return self._models.scan is not None and not self._models.scan.is_still()

    def _detector(self):
        return self._models.detector

    def _beam(self):
        return self._models.beam

    def _goniometer(self):
        # images that do not turn are stills, each an experiment of its own
        return self._models.goniometer if self._turns() else None

    def _scan(self):
        return self._models.scan if self._turns() else None

    def get_crystal(self):
        """The crystal that was simulated, or None; of a sweep as it is without scan points."""
        return self._models.crystal

    def get_models(self):
        """All that was simulated: an Experiment without images."""
        return self._models

    def get_provenance(self):
        """How the file was made, as a dictionary."""
        return self._provenance
