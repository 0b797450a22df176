"""The image format class of the NXmx files this program writes.

Pixels are read as the stock FormatNXmx reads them; the models come, exact, from our own group.
dxtbx asks `understand` of every file a user opens, so nothing heavy may be imported here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
from dxtbx import flumpy
from dxtbx.format.FormatNXmx import FormatNXmx
from dxtbx.model import Spectrum
from libtbx.utils import Sorry
from scitbx.array_family import flex

from nanobragg_plugin.adapters import dxtbx_versions
from nanobragg_plugin.constants import EV_ANGSTROM
from nanobragg_plugin.format.frame_numbers import frames_of_file
from nanobragg_plugin.format.nxmx_guard import Frames, check_file
from nanobragg_plugin.format.nxmx_images import ImageModels, read_crystals
from nanobragg_plugin.format.nxmx_models import EXPECTED, MAPS, find_group, read_group
from nanobragg_plugin.format.nxmx_pixels import DATA, lost_parts
from nanobragg_plugin.format.nxmx_tree import BEAM, VARIANT, FrameLayout


class FormatNXmxNanoBragg(FormatNXmx):
    """NXmx written by nanobragg.simulate."""

    _models = None
    _spectrum = None

    @staticmethod
    def understand(image_file):
        """Whether the file has our group; False, never an exception, for anything else."""
        try:
            with h5py.File(image_file, "r") as handle:
                return find_group(handle) is not None
        # whatever HDF5 and h5py make of a damaged file
        except Exception:
            return False

    def _start(self):
        with h5py.File(self._image_file, "r", swmr=True) as handle:
            check_file(handle, self._image_file)
        self._frames = Frames(self._image_file)
        super()._start()
        with h5py.File(self._image_file, "r", swmr=True) as handle:
            self._models, self._provenance = read_group(handle, self._image_file)
            self._crystals, self._of_images = read_crystals(handle), ImageModels.of(handle)
            self._num_images = _number_of_images(handle, self._models, self._image_file)
            lost = lost_parts(handle[DATA], Path(self._image_file).parent)
            if lost:
                raise Sorry(
                    f"{self._image_file} refers to {len(lost)} files that are not beside it, "
                    f"{lost[0]} the first: they hold its images; bring them back together"
                )
            self._spectrum = _read_spectrum(handle[BEAM])
            if self._static_mask is None:
                self._static_mask = _cut_mask(handle["/entry/instrument/detector"])
        self._detector_model = self._models.detector
        self._goniometer_model = self._models.goniometer
        scan = self._models.scan
        # images that do not turn are stills, each an experiment of its own
        self._scan_model = scan if dxtbx_versions.is_rotation(scan) else None

    def get_raw_data(self, index):
        """As the stock class, after a look at how large the image really is."""
        with h5py.File(self._image_file, "r", swmr=True) as handle:
            self._frames.check(handle[DATA], index)
        return super().get_raw_data(index)

    def _beam(self, index=None):
        # the stock _start asks for a beam before ours is read
        if self._models is None:
            return super()._beam(index)
        if self._of_images is None:
            return self._models.beam
        return self._of_images.beam(self._models.beam, index or 0)

    def get_spectrum(self, index=None):
        """The photons' energies, the same in all images, or None of a beam of one wavelength."""
        return self._spectrum

    def get_crystal(self, index=None):
        """The crystal that was simulated, the first of several, or None; of stills, which have a
        crystal each, that of image index, from 0."""
        if self._of_images is None:
            return self._models.crystal
        return self._of_images.crystal(self._models.crystal, index or 0)

    def get_crystals(self, index=None):
        """All crystals that were simulated in an image."""
        return self._crystals or [self.get_crystal(index)]

    def get_models(self):
        """All that was simulated: an Experiment without images."""
        return self._models

    def get_provenance(self):
        """How the file was made, as a dictionary."""
        return self._provenance

    def get_expected(self, index):
        """The photons that were expected of image ``index``, from 0, before any noise: a flex.float
        ``[slow, fast]`` of each panel; None if the file was written without them."""
        with h5py.File(self._image_file, "r", swmr=True) as handle:
            if EXPECTED not in handle:
                return None
            self._frames.check(handle[EXPECTED], index)
            frame = handle[EXPECTED][index]
        layout = FrameLayout.of(self._models.detector)
        return tuple(flumpy.from_numpy(panel) for panel in layout.cut(frame))

    def get_maps(self, index):
        """What each pixel of image ``index``, from 0, sees, as far as the file has it: by name
        (hkl, resolution, wavelength ...) a numpy array ``[slow, fast, ...]`` of each panel."""
        layout = FrameLayout.of(self._models.detector)
        with h5py.File(self._image_file, "r", swmr=True) as handle:
            maps = handle[MAPS] if MAPS in handle else {}
            for name in maps:
                self._frames.check(maps[name], index)
            return {name: tuple(layout.cut(maps[name][index])) for name in maps}

    @classmethod
    def get_imageset(cls, filenames, *args, **kwargs):
        """As FormatMultiImage has it, for image numbers that do not begin at 1.

        To load an .expt dxtbx asks for the frames ``range(*scan.get_array_range())``, as if image
        1 were the first of the file. Ours may begin at any number, with the first frame.
        """
        scan, frames = kwargs.get("scan"), kwargs.get("single_file_indices")
        if scan is not None and frames is not None and kwargs.get("check_format", True):
            name = filenames if isinstance(filenames, str) else filenames[0]
            with h5py.File(name, "r", swmr=True) as handle:
                own = read_group(handle, name)[0].scan
            kwargs["single_file_indices"] = frames_of_file(own, list(frames))
        return super().get_imageset(filenames, *args, **kwargs)


def _number_of_images(handle: h5py.File, models, path) -> int:
    """How many there are; Sorry where pixels and models do not go together."""
    data = handle[DATA]
    shape = FrameLayout.of(models.detector).shape
    if not isinstance(data, h5py.Dataset) or data.shape[1:] != shape or not data.shape[0]:
        raise Sorry(f"{path}: its pixels, {data}, are not those of its detector, {shape}")
    if dxtbx_versions.is_rotation(models.scan) and models.scan.get_num_images() != data.shape[0]:
        raise Sorry(f"{path} has {data.shape[0]} images, its scan {models.scan.get_num_images()}")
    return data.shape[0]


def _read_spectrum(beam: h5py.Group):
    """dxtbx's Spectrum of NXbeam, or None."""
    if VARIANT not in beam:
        return None
    energies = EV_ANGSTROM / beam[VARIANT][()][::-1]
    weights = beam[f"{VARIANT}_weights"][()][::-1]
    return Spectrum(flex.double(energies.tolist()), flex.double(weights.tolist()))


def _cut_mask(detector: h5py.Group):
    """The mask of panels of unequal widths, which stock dxtbx 3.11 cannot cut out of a frame."""
    if "pixel_mask_1" not in detector:
        return None
    frame = detector["pixel_mask_1"][()]
    masks = []
    for name in sorted(n for n in detector if n.startswith("module_")):
        (slow, fast), (slows, fasts) = detector[name]["data_origin"], detector[name]["data_size"]
        cut = frame[slow : slow + slows, fast : fast + fasts]
        masks.append(flumpy.from_numpy(np.ascontiguousarray(cut == 0)))
    return tuple(masks)


if __name__ == "__main__":
    for arg in sys.argv[1:]:
        print(FormatNXmxNanoBragg.understand(arg))
