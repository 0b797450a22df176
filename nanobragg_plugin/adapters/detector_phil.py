"""The detector's answer to photons: PHIL to `response.Response`, and to dxtbx's panels."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from dxtbx.model import Experiment, Panel
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import dxtbx_versions
from nanobragg_plugin.adapters.fluence import exposure_times
from nanobragg_plugin.adapters.load import Lookup
from nanobragg_plugin.adapters.phil_values import positive
from nanobragg_plugin.point_spread import PointSpread
from nanobragg_plugin.response import BadPixels, Response


def response_of(params: Any, seed: int) -> Response:
    """Of all parameters; seed: of the noise of a sweep."""
    detector, noise = params.detector, params.noise
    bad = detector.bad_pixels
    if bad.dead + bad.hot > 1:
        raise Sorry(
            f"detector.bad_pixels.dead={bad.dead:g} and hot={bad.hot:g} are more pixels than there "
            "are: they may add up to 1"
        )
    noises = noise.flicker, noise.calibration, noise.readout_noise_adu, noise.zingers
    return Response(
        poisson=noise.poisson,
        seed=seed,
        flicker=noise.flicker,
        calibration=noise.calibration,
        calibration_seed=noise.calibration_seed,
        dead_time_s=detector.dead_time_ns * 1e-9,
        dead_time_model=detector.dead_time_model,
        spread=_spread(detector.point_spread),
        zingers=noise.zingers,
        zinger_photons=noise.zinger_photons,
        readout_noise_adu=noise.readout_noise_adu,
        bad=BadPixels(bad.dead, bad.hot, bad.hot_adu, bad.seed),
        saturation_adu=math.inf if detector.saturation_adu is None else detector.saturation_adu,
        rounded=noise.poisson or any(noises),
    )


def _spread(params: Any) -> PointSpread | None:
    if params.shape in (None, "none"):
        if params.fwhm_mm is not None:
            raise Sorry(
                "detector.point_spread.fwhm_mm does nothing without a shape: give "
                "detector.point_spread.shape=gauss or fiber"
            )
        return None
    if params.fwhm_mm is None:
        raise Sorry(
            f"detector.point_spread.shape={params.shape} needs a width: give "
            "detector.point_spread.fwhm_mm (full width at half maximum, mm)"
        )
    positive(params.fwhm_mm, "detector.point_spread.fwhm_mm")
    return PointSpread(params.shape, params.fwhm_mm)


def exposures(params: Any, experiment: Experiment) -> list[float]:
    """s of every image, as far as the dead time needs them; `Sorry` where they are not known."""
    n_images = 1 if experiment.scan is None else experiment.scan.get_num_images()
    times = exposure_times(experiment.scan, n_images)
    if params.beam.exposure_s is not None:
        times = [params.beam.exposure_s] * n_images
    if params.detector.dead_time_ns and not min(times) > 0:
        raise Sorry(
            "detector.dead_time_ns needs to know how long an image takes: give beam.exposure_s "
            "(seconds); the scan has no exposure times"
        )
    return times


def refuse_beside(lookup: Lookup, params: Any) -> None:
    """`Sorry` where the scope `detector` gives what a file of the image set gives for pixels."""
    for name, of_file, value in (
        ("quantum_gain", "gain", params.quantum_gain),
        ("adc_offset_adu", "pedestal", params.adc_offset_adu),
    ):
        if value is not None and getattr(lookup, of_file) is not None:
            raise Sorry(
                f"detector.{name}={value:g} does nothing beside the {of_file} of each pixel, for "
                "which the experiment list or detector.gain_file names a file: leave one of them "
                "away"
            )


def set_panels(experiments: Sequence[Experiment], params: Any) -> None:
    """Give the detectors of experiments what the scope `detector` has of models."""
    given = params.quantum_gain, params.adc_offset_adu, params.saturation_adu
    given += params.gaps.module_size, params.gaps.width
    if all(value is None for value in given):
        return
    if params.quantum_gain is not None:
        positive(params.quantum_gain, "detector.quantum_gain")
    made: dict[int, tuple[Any, Any]] = {}
    for experiment in experiments:
        before = experiment.detector
        if id(before) not in made:  # `before` is kept, so that its id stays its own
            made[id(before)] = before, copy.deepcopy(before)
            for number, panel in enumerate(made[id(before)][1]):
                _set_panel(panel, number, params)
        experiment.detector = made[id(before)][1]


def gaps(params: Any, image_size: tuple[int, int], number: int) -> list[tuple[int, int, int, int]]:
    """The gaps of the scope `detector.gaps` in panel `number` of `image_size` (fast, slow):
    first fast and slow pixel, and the fast and slow ones after the last."""
    sizes, widths = params.module_size, params.width
    if sizes is None and widths is None:
        return []
    for name, value in (("module_size", sizes), ("width", widths)):
        if value is None:
            raise Sorry(f"detector.gaps needs detector.gaps.{name} (pixels, fast and slow)")
    found = []
    for axis, (length, size, width) in enumerate(zip(image_size, sizes, widths)):
        modules, rest = divmod(length + width, size + width)
        if rest or modules < 1:
            way = ("fast", "slow")[axis]
            raise Sorry(
                f"detector.gaps: no number of modules of {size} pixels with gaps of {width} makes "
                f"the {length} pixels of panel {number} along {way}; mend "
                "detector.gaps.module_size or .width"
            )
        for module in range(1, modules if width else 0):
            rectangle = [0, 0, *image_size]
            rectangle[axis + 2] = module * (size + width)
            rectangle[axis] = rectangle[axis + 2] - width
            found.append(tuple(rectangle))
    return found


def _set_panel(panel: Panel, number: int, params: Any) -> None:
    if params.quantum_gain is not None:
        panel.set_gain(params.quantum_gain)
    if params.adc_offset_adu is not None:
        panel.set_pedestal(params.adc_offset_adu)
    for rectangle in gaps(params.gaps, panel.get_image_size(), number):
        panel.add_mask(*rectangle)
    if params.saturation_adu is None:
        return
    if not params.saturation_adu > panel.get_pedestal() + panel.get_gain():
        raise Sorry(
            f"detector.saturation_adu={params.saturation_adu:g} is not a photon above the offset "
            f"of panel {number}, {panel.get_pedestal():g} ADU: give more"
        )
    low, high = panel.get_trusted_range()
    limit = params.saturation_adu - (1 if dxtbx_versions.trusted_range_is_inclusive() else 0)
    if not low < high:  # not set
        low, high = -1.0, limit
    panel.set_trusted_range((low, min(high, limit)))


def fit_panels(experiments: Sequence[Experiment], file_format: str) -> None:
    """Let panels trust no more than files of a format hold: those of SMV files 0 to 65534, what is
    more being written as 65535, an overload."""
    if file_format != "smv":
        return
    step = 1 if dxtbx_versions.trusted_range_is_inclusive() else 0
    made: dict[int, tuple[Any, Any]] = {}
    for experiment in experiments:
        before = experiment.detector
        if id(before) not in made:  # `before` is kept, so that its id stays its own
            made[id(before)] = before, copy.deepcopy(before)
            for number, panel in enumerate(made[id(before)][1]):
                low, high = panel.get_trusted_range()
                if not low < high:  # not set
                    low, high = -1 + step, 65535 - step
                fitted = max(low, -1 + step), min(high, 65535 - step)
                if not fitted[0] < fitted[1]:
                    raise Sorry(
                        f"Panel {number} trusts values from {low:g} to {high:g}, none of which SMV "
                        "files hold (0 to 65534): use output.format=cbf"
                    )
                panel.set_trusted_range(fitted)
        experiment.detector = made[id(before)][1]
