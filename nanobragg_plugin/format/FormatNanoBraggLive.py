"""The image format class of live files (.nbexpt): some lines of PHIL that are an image set.

An image is simulated when it is read. dxtbx asks `understand` of every file a user opens, so
nothing heavy may be imported here; the simulator is when a live file is opened.
"""

from __future__ import annotations

import sys

from dxtbx import IncorrectFormatError, flumpy
from dxtbx.format.Format import Format
from dxtbx.format.FormatMultiImage import FormatMultiImage
from dxtbx.model import Spectrum
from scitbx.array_family import flex

from nanobragg_plugin.constants import EV_ANGSTROM
from nanobragg_plugin.format.frame_numbers import frames_of_file
from nanobragg_plugin.format.live_text import is_live


class FormatNanoBraggLive(FormatMultiImage, Format):
    """Images that nanobragg.simulate would write, bit for bit, rendered as they are read."""

    def __init__(self, image_file, **kwargs):
        if not self.understand(image_file):
            raise IncorrectFormatError(self, image_file)
        FormatMultiImage.__init__(self, **kwargs)
        Format.__init__(self, image_file, **kwargs)

    @staticmethod
    def understand(image_file):
        """Whether the file begins as a live file does; never an exception."""
        return is_live(image_file)

    def _start(self):
        from nanobragg_plugin.run.live import LiveImages

        self._live = LiveImages.of(self._image_file)

    def _detector(self):
        return self._live.models.detector

    def _beam(self):
        return self._live.models_of(0).beam

    def _goniometer(self):
        return self._live.models.goniometer

    def _scan(self):
        # images that do not turn are stills, each an experiment of its own
        return self._live.models.scan if self._live.turns else None

    def get_num_images(self):
        """How many images there are."""
        return self._live.n_images

    def get_beam(self, index=None):
        """The beam of image index, from 0."""
        return self._live.models_of(index or 0).beam

    def get_crystal(self, index=None):
        """The crystal that is simulated, the first of several; of stills, which have a crystal
        each, that of image index, from 0."""
        return self._live.models_of(index or 0).crystal

    def get_crystals(self, index=None):
        """All crystals that are simulated in an image."""
        crystals = self._live.crystals
        return crystals if len(crystals) > 1 else [self.get_crystal(index)]

    def get_models(self):
        """All that is simulated: an Experiment without images."""
        return self._live.models

    def get_spectrum(self, index=None):
        """The photons' energies, the same in all images, or None of a beam of one wavelength."""
        if self._live.spectrum is None:
            return None
        wavelengths, photons = self._live.spectrum
        energies = EV_ANGSTROM / wavelengths[::-1]
        return Spectrum(flex.double(energies.tolist()), flex.double(photons[::-1].tolist()))

    def get_static_mask(self, index=None, goniometer=None):
        """A flex.bool of each panel, True where pixels are good, or None: all are."""
        if self._live.good is None:
            return None
        return tuple(flumpy.from_numpy(panel.copy()) for panel in self._live.good)

    def get_raw_data(self, index=None):
        """The pixels of image index, from 0: a flex.int of each panel, flex.float without noise."""
        panels = self._live.pixels(index or 0)
        return tuple(flumpy.from_numpy(panel.copy()) for panel in panels)

    def detectorbase_start(self):
        """Old readers of iotbx are not needed."""

    @classmethod
    def get_imageset(cls, filenames, *args, **kwargs):
        """As FormatMultiImage has it, for image numbers that do not begin at 1.

        To load an .expt dxtbx asks for the frames ``range(*scan.get_array_range())``, as if image
        1 were the first of the file. Ours may begin at any number, with the first frame.
        """
        scan, frames = kwargs.get("scan"), kwargs.get("single_file_indices")
        if scan is not None and frames is not None and kwargs.get("check_format", True):
            name = filenames if isinstance(filenames, str) else filenames[0]
            own = cls.get_instance(name, **(kwargs.get("format_kwargs") or {})).get_scan()
            kwargs["single_file_indices"] = frames_of_file(own, list(frames))
        return super().get_imageset(filenames, *args, **kwargs)


if __name__ == "__main__":
    for arg in sys.argv[1:]:
        print(FormatNanoBraggLive.understand(arg))
