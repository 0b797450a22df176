"""The images of a live file: its models at once, its pixels when they are asked for."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import numpy as np
from dxtbx.model import Experiment
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import checks, fluence, live_paths, load
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.adapters.params import Core
from nanobragg_plugin.format import live_text
from nanobragg_plugin.format.nxmx_pixels import stored
from nanobragg_plugin.run import data_sets, live_cost, live_params, messages
from nanobragg_plugin.run.images import Detection, good_pixels, spectrum_of_beams
from nanobragg_plugin.run.live_process import logger, process


class LiveImages:
    """What a format class gives of a live file. `Sorry`, before anything is rendered, for what is
    wrong with it or would cost too much.

    n_images; models: dxtbx's Experiment of all images, without images of its own; good: bool [slow,
    fast] a panel, or None.
    """

    @classmethod
    def of(cls, path: str) -> LiveImages:
        """Those of a file, opened anew only if it, a file that it names or what the environment
        allows has changed."""
        allowed = os.environ.get(live_paths.TRUST), os.environ.get(live_cost.LIMIT)
        place = (os.path.abspath(path), *allowed)
        return process().opened(place, lambda: cls(path), lambda known: known.is_unchanged())

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)
        with messages.clear():
            self._open(path)

    def _open(self, path: str) -> None:
        request = live_params.request(live_text.read_text(path), path)
        self._params, self.files = request.params, (self.path, *request.files)
        self.key = _key(self.files)
        _fall_back(self._params, path)
        live_cost.check_asked(self._params, path)
        ready = data_sets.prepared(self._params, request.listed)
        sweep = self._params.input.sweep
        if (sweep or 1) > len(ready.groups):
            raise Sorry(f"{path}: input.sweep={sweep}, but the list has {len(ready.groups)}")
        if len(ready.groups) > 1 and sweep is None:
            raise Sorry(
                f"{path}: the experiment list has {len(ready.groups)} sweeps or stills, a live "
                "file the images of one: choose it with input.sweep=1, 2 ..."
            )
        self._ready, self._number = ready, (sweep or 1) - 1
        live_cost.check_models(ready.of_group(self._number), path)
        self._plan_cheaply()

    def _plan_cheaply(self) -> None:
        """All but amplitudes and pixels."""
        params, ready = self._params, self._ready
        sources = ready.of_group(self._number)
        lookup = load.lookup(sources[0], params.detector.gain_file)
        if ready.shots is not None:
            of_first = ready.shots.params_of(params, 0)
            cores = [adapt.core_of(of_first, ready.shots.models(0), lookup.mask)]
        else:
            cores = [self._core(source, lookup.mask) for source in sources]
        live_cost.check(cores, params, self.path)
        self._core_of_first, self.models = cores[0], cores[0].dxtbx_experiment
        chosen = fluence.scales_of_chosen(ready.scales(self._number), sources[0], self.models)
        fluence.fluence_of_images(params.beam, self.models, chosen)  # Sorry where it is not known
        self.crystals = [core.dxtbx_experiment.crystal for core in cores]
        detection = Detection.of(params, self._number, lookup, self.models)
        self._dtype = np.dtype("int32" if detection.response.rounded else "float32")
        detector = detection.detector(self.models.detector)
        self.good = good_pixels(cores[0].experiment.panels, detector, detection.masked)
        scan = self.models.scan
        self.n_images = 1 if scan is None else scan.get_num_images()
        if ready.shots is not None:
            self.n_images = ready.shots.count

    def _core(self, source: Experiment, mask: Any) -> Core:
        chosen = load.select_images(source, self._params.sampling.image_range)
        return adapt.core_of(self._params, chosen, mask, load.images_before(source, chosen))

    def is_unchanged(self) -> bool:
        """Whether all files are as they were when this was made."""
        try:
            return _key(self.files) == self.key
        except OSError:
            return False

    @property
    def turns(self) -> bool:
        """Whether the images are a rotation, not stills."""
        return self._ready.shots is None and checks.is_rotation(self.models.scan)

    def models_of(self, index: int) -> Experiment:
        """The models of image `index`, from 0."""
        shots = self._ready.shots
        return self.models if shots is None else shots.models(index)

    @cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Wavelengths, Angstrom, and the photons of each; None where there is one, or where they
        differ between images."""
        shots = self._ready.shots
        if shots is not None and not shots.one_spectrum:
            return None
        return spectrum_of_beams([self._core_of_first.experiment.beam])

    def pixels(self, index: int) -> list[np.ndarray]:
        """Pixel values [slow, fast] a panel of image `index`, from 0, as nanobragg.simulate writes
        them: int32, or float32 without noise."""
        if not 0 <= index < self.n_images:
            raise IndexError(f"image {index} of {self.n_images} of {self.path}")
        return process().pixels(self.key, index, self._render)

    def _render(self, index: int) -> list[np.ndarray]:
        with messages.clear():
            if not self.is_unchanged():
                raise Sorry(f"{self.path}, or a file that it names, has changed: open it again")
            images = process().data_set(self.key, self._make).images
            if self._ready.shots is not None:
                self._check_still(index)
            values = images.values(index, images.expected(index))
        panels = zip(values, (panel.get_trusted_range() for panel in self.models.detector))
        where = f"image {index + 1} of {self.path}"
        return [stored(of, self._dtype, trusted, where) for of, trusted in panels]

    def _make(self) -> data_sets.DataSet:
        process().set_threads(self._params.compute.nthreads)
        logger.info("Simulating the images of %s", self.path)
        return data_sets.data_set(self._ready, self._number)

    def _check_still(self, index: int) -> None:
        """`Sorry` where a still, whose domains may be larger than the first's, costs too much."""
        shots = self._ready.shots
        of_image = shots.params_of(self._params, index)
        live_cost.check([adapt.core_of(of_image, shots.models(index))], self._params, self.path)


def _key(files: tuple[str, ...]) -> tuple:
    """What tells a live file, and all that it names, from others, and from itself when changed."""
    found = [os.stat(path) for path in files]
    return (*files, *((one.st_mtime_ns, one.st_size, one.st_ino) for one in found))


def _fall_back(params: Any, path: str) -> None:
    """The CPU in place of a device that is not here."""
    try:
        adapt.torch_device(params.compute.device)
    except Sorry as error:
        logger.warning("%s: %s; the CPU is used", path, error)
        params.compute.device = "cpu"
