"""In our group of an NXmx file: several crystals in its images, or models of each image's own.

Of stills each has a beam and a crystal: arrays, one row an image, of what differs from the models
of the whole file. Stock readers know of these the wavelength.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from typing import Any

import h5py
import numpy as np
from dxtbx.model import CrystalFactory
from libtbx.utils import Sorry

from nanobragg_plugin.format.nxmx_guard import member, read_json
from nanobragg_plugin.format.nxmx_models import GROUP

CRYSTALS, IMAGES = f"{GROUP}/crystals", f"{GROUP}/images"
WAVELENGTH = "/entry/instrument/beam/incident_wavelength"


def write_crystals(handle: h5py.File, crystals: Iterable[Any]) -> None:
    """All dxtbx crystals that are in every image."""
    handle[CRYSTALS] = json.dumps([crystal.to_dict() for crystal in crystals])


def read_crystals(handle: h5py.File) -> list[Any]:
    """Their inverse; an empty list where there is one crystal at most, the file's."""
    group = handle[GROUP]
    if member(group, "crystals") is None:
        return []
    try:
        found = read_json(group, "crystals", handle.filename)
        return [CrystalFactory.from_dict(one) for one in found]
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise Sorry(f"{handle.filename}: the crystals in it are damaged") from error


def write_image_models(handle: h5py.File, models_of: Callable[[int], Any], n_images: int) -> None:
    """Beam and crystal of each image: static ones of the experiment that models_of its index is."""
    values = {"A": np.empty((n_images, 9))}
    values.update({name: np.empty((n_images, 3)) for name in ("s0", "polarization_normal")})
    for i in range(n_images):
        experiment = models_of(i)
        values["A"][i] = experiment.crystal.get_A()
        values["s0"][i] = experiment.beam.get_s0()
        values["polarization_normal"][i] = experiment.beam.get_polarization_normal()
    group = handle.create_group(IMAGES)
    group.attrs["NX_class"] = "NXcollection"
    for name, array in values.items():
        group[name] = array
    for name in ("A", "s0"):
        group[name].attrs["units"] = "1/angstrom"
    group["A"].attrs["description"] = "U B of each image's crystal, row by row"
    wavelengths = 1 / np.linalg.norm(values["s0"], axis=1)
    if len(np.unique(wavelengths)) > 1:
        del handle[WAVELENGTH]
        handle[WAVELENGTH] = wavelengths
        handle[WAVELENGTH].attrs["units"] = "angstrom"


class ImageModels:
    """Beams and crystals of the images of an open file."""

    def __init__(self, group: h5py.Group) -> None:
        columns = {"A": 9, "s0": 3, "polarization_normal": 3}
        if any(not isinstance(member(group, name), h5py.Dataset) for name in columns):
            raise Sorry(f"{group.file.filename}: the models of its images are damaged")
        self._values = {name: np.asarray(group[name][()]) for name in columns}
        for name, number in columns.items():
            values = self._values[name]
            if values.dtype.kind != "f" or values.ndim != 2 or values.shape[1] != number:
                raise Sorry(f"{group.file.filename}: {name} of its images is damaged")

    @classmethod
    def of(cls, handle: h5py.File) -> ImageModels | None:
        """None where all images have the models of the file."""
        return cls(handle[IMAGES]) if IMAGES in handle else None

    def beam(self, beam: Any, index: int) -> Any:
        """The file's dxtbx beam, as it was in image `index`, from 0."""
        result = copy.deepcopy(beam)
        # the wavelength first: a direction of s0 keeps it
        s0 = self._values["s0"][index]
        result.set_wavelength(float(1 / np.linalg.norm(s0)))
        result.set_direction(tuple(-s0 / np.linalg.norm(s0)))
        result.set_polarization_normal(tuple(self._values["polarization_normal"][index]))
        return result

    def crystal(self, crystal: Any, index: int) -> Any:
        """The file's dxtbx crystal, as it was in image `index`."""
        result = copy.deepcopy(crystal)
        result.set_A(tuple(self._values["A"][index]))
        return result
