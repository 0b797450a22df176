"""Which writer makes the images, and whether it can hold them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dxtbx.model import Experiment
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import checks
from nanobragg_plugin.format.cbf_writer import CbfWriter
from nanobragg_plugin.format.image_files import NUMBER, ImageWriter, image_numbers, image_path
from nanobragg_plugin.format.nxmx_pixels import PartWriter, Pixels
from nanobragg_plugin.format.nxmx_writer import NXmxWriter
from nanobragg_plugin.format.raw_writer import RawWriter, companions
from nanobragg_plugin.format.smv_writer import SmvWriter
from nanobragg_plugin.run.data_sets import DataSet

logger = logging.getLogger("dials.nanobragg_plugin.run.writers")

#: Those that write a file for every image, and how its name ends; NXmx has one for all.
FILE_PER_IMAGE = {"cbf": CbfWriter, "smv": SmvWriter, "raw": RawWriter}
ENDINGS = {
    "nxmx": ".nxs",
    "cbf": f"_{NUMBER}.cbf",
    "smv": f"_{NUMBER}.img",
    "raw": f"_{NUMBER}.bin",
    "live": ".nbexpt",
}


@dataclass(frozen=True)
class Form:
    """What images are written as: format, a key of `ENDINGS`; compression, of NXmx; expected:
    whether the photons that were expected stand beside the pixels; maps: whether what each sees."""

    format: str = "nxmx"
    compression: str = "gzip"
    expected: bool = False
    maps: bool = False

    @classmethod
    def of(cls, params: Any) -> Form:
        """From the extracted `output` scope; `Sorry` for what no file of the format has."""
        compression = params.compression or "none"  # which libtbx.phil takes for None
        if params.format != "nxmx":
            if params.expected:
                raise Sorry(
                    f"output.expected=True needs output.format=nxmx: {params.format} files have no "
                    "place for a second data set"
                )
            if params.maps:
                raise Sorry(
                    f"output.maps=True needs output.format=nxmx: {params.format} files have no "
                    "place for them"
                )
            if compression != "gzip":
                raise Sorry(
                    f"output.compression={compression} does nothing for "
                    f"output.format={params.format}: leave it away"
                )
        return cls(params.format, compression, params.expected, params.maps)

    def check(self, experiment: Experiment, rounded: bool) -> None:
        """`Sorry` for images of an experiment that the files cannot hold, before any is simulated;
        rounded: whether pixel values are whole numbers."""
        first = 1 if experiment.scan is None else experiment.scan.get_image_range()[0]
        if self.format == "nxmx" and first < 1 and checks.is_rotation(experiment.scan):
            raise Sorry(
                f"the scan begins at image {first}, but dxtbx numbers the images of one file from "
                "1: use output.format=cbf, or give geometry.scan.image_range"
            )
        if self.format not in FILE_PER_IMAGE:
            return
        if not rounded and self.format != "raw":
            raise Sorry(
                f"noise.poisson=False makes fractions of photons, {self.format} files hold whole "
                "numbers: use output.format=nxmx or raw"
            )
        FILE_PER_IMAGE[self.format].check(experiment)
        varying = [
            name
            for name, points in (
                ("beam", experiment.beam.num_scan_points),
                ("goniometer", getattr(experiment.goniometer, "num_scan_points", 0)),
            )
            if points
        ]
        if varying and self.format != "raw":
            logger.warning(
                "The %s changes along the scan, which the headers of %s files do not say: import "
                "the experiment list that is written, not the images",
                " and the ".join(varying),
                self.format,
            )

    def files(self, path: Path, experiment: Experiment, n_images: int) -> list[Path]:
        """All files of a sweep, the images' first, in their order; path: as `Outputs.images`."""
        if self.format not in FILE_PER_IMAGE:
            return [path]
        images = [image_path(path, number) for number in image_numbers(experiment, n_images)]
        return [*images, *companions(path)] if self.format == "raw" else images

    @property
    def note(self) -> str:
        """What the log says of an experiment list."""
        return " (models only: raw files are no images to DIALS)" if self.format == "raw" else ""


#: The default.
NXMX = Form()


def open_writer(
    form: Form,
    path: Path,
    data_set: DataSet,
    provenance: dict,
    maps: Sequence[str] = (),
    parts: Sequence[tuple[str, int, int]] | None = None,
) -> ImageWriter:
    """What writes the images of a file, or of one for each; maps: names of those beside them;
    parts: of NXmx, the files to which it refers, as `Pixels.refer` has them."""
    images, stills = data_set.images, data_set.stills
    models_of = None if stills is None else stills.models
    options = {"n_images": images.n_images, "provenance": provenance, "mask": images.good()}
    options["models_of"] = models_of
    if form.format in FILE_PER_IMAGE:
        return FILE_PER_IMAGE[form.format](path, images.models, **options)
    rounded = images.detection.response.rounded
    return NXmxWriter(
        path,
        images.models,
        dtype=_dtype(data_set),
        compression=form.compression,
        expected=not rounded,
        with_expected=form.expected,
        maps=maps,
        parts=parts,
        crystals=images.crystals,
        spectrum=images.spectrum() if stills is None or stills.one_spectrum else None,
        **options,
    )


def open_part(
    form: Form, path: Path, data_set: DataSet, maps: Sequence[str], first: int, end: int, name: Path
) -> PartWriter:
    """What writes images `first` to `end` - 1 of an NXmx file `name` into one of their own."""
    detector = data_set.images.models.detector
    of = detector, _dtype(data_set), form.compression, form.expected, maps
    return PartWriter(path, Pixels(*of), first, end, name)


def _dtype(data_set: DataSet) -> str:
    return "int32" if data_set.images.detection.response.rounded else "float32"
