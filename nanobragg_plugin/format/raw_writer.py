"""Writes simulated images as bare numbers, for programs that know nothing of DIALS."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nanobragg_plugin.format.image_files import NUMBER, FilePerImage, image_path
from nanobragg_plugin.format.nxmx_models import FORMAT_VERSION, experiment_to_dict


class RawWriter(FilePerImage):
    """See `FilePerImage`. A file is the panels one after the other, little-endian float32
    ``[slow, fast]`` each, as nanoBragg.c's floatimage.bin is one. A JSON file beside them,
    the first of `companions`, says what they hold. Where pixels are bad, the second of them is a
    byte for each pixel in the same order, 1 for a good one.
    """

    dtype = np.dtype("<f4")
    kind = "raw"
    mend = "use output.format=nxmx"

    @classmethod
    def check(cls, experiment) -> None:
        """Bare numbers are of anything."""

    def close(self) -> None:
        super().close()
        self.describe()

    def describe(self) -> None:
        """Write the files beside the images; what is written goes if that fails."""
        path, mask = companions(self._template)
        masked = any(bad.any() for bad in self._bad)
        try:
            if masked:
                self.names.append(mask)
                mask.write_bytes(b"".join((~bad).astype(np.uint8).tobytes() for bad in self._bad))
            self.names.append(path)
            text = json.dumps(self._description(mask.name if masked else None), indent=1)
            path.write_text(text + "\n", encoding="utf-8")
        except BaseException:
            self.discard()
            raise

    def _description(self, mask: str | None) -> dict:
        panels, offset = [], 0
        for shape in self._shapes:
            panels.append({"shape_slow_fast": list(shape), "byte_offset": offset})
            offset += 4 * shape[0] * shape[1]
        names = [image_path(self._template, number).name for number in self._numbers]
        return {
            "format_version": FORMAT_VERSION,
            "dtype": "float32",
            "byte_order": "little_endian",
            "bytes_per_file": offset,
            "panels": panels,
            "files": [{"image": n, "name": name} for n, name in zip(self._numbers, names)],
            "mask": mask,
            "models": experiment_to_dict(self._experiment),
            "models_of_images": None if self._models_of is None else self._all_models(),
            "provenance": self._provenance,
        }

    def _all_models(self) -> list[dict]:
        return [experiment_to_dict(self.models(index)) for index in range(self.n_images)]

    def _write_file(self, path, index: int, panels: list[np.ndarray]) -> None:
        with open(path, "wb") as handle:
            for values in panels:
                handle.write(np.ascontiguousarray(values).tobytes())


def companions(template: Path) -> list[Path]:
    """Beside files out_#####.bin: out_raw.json and out_raw_mask.bin."""
    names = ("_raw.json", "_raw_mask.bin")
    return [template.with_name(template.name.replace(f"_{NUMBER}.bin", name)) for name in names]
