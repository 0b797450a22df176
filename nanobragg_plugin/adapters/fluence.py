"""How many photons arrive, and where the figure came from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from libtbx.utils import Sorry

from nanobragg_plugin.adapters import checks, dxtbx_versions
from nanobragg_plugin.adapters.phil_values import positive
from nanobragg_plugin.adapters.spectrum import read_columns


def fluence_of_images(
    params: Any, experiment: Any, scales: Sequence[float] | None = None
) -> tuple[tuple[float, ...], str]:
    """photons/m^2 of every image, and a line for the log.

    params: the PHIL scope beam, extracted; experiment: dxtbx's; scales: of its images, by default
    those of beam.image_scale_file, if there is one, which then is of this experiment alone.
    """
    fluences, note = _fluences(params, experiment)
    if params.image_scale_file is None:
        return fluences, note
    if scales is None:
        (scales,) = scales_of_images(params, [experiment])
    note += (
        f"; each image times its scale in {params.image_scale_file}, {min(scales):.4g} to "
        f"{max(scales):.4g}"
    )
    return tuple(fluence * scale for fluence, scale in zip(fluences, scales)), note


def scales_of_images(params: Any, experiments: Sequence[Any]) -> list[tuple[float, ...] | None]:
    """The relative fluence of the images of every dxtbx experiment, from beam.image_scale_file;
    None of each without one."""
    name = params.image_scale_file
    if name is None:
        return [None] * len(experiments)
    scales = read_columns(name, "a list of the images' scales", "one scale", 1)[:, 0].tolist()
    counts = [n_images(experiment) for experiment in experiments]
    if len(scales) != sum(counts):
        raise Sorry(
            f"{name} has {len(scales)} scales for {sum(counts)} images: give one on a line for "
            "each image of each experiment, in their order"
        )
    if min(scales) < 0:
        raise Sorry(f"{name} has the scale {min(scales):g}; none may be below 0")
    ends = list(accumulate(counts))
    return [tuple(scales[end - count : end]) for end, count in zip(ends, counts)]


def scales_of_chosen(
    scales: Sequence[float] | None, experiment: Any, chosen: Any
) -> Sequence[float] | None:
    """Of the scales of an experiment those of the images that were chosen from it."""
    if scales is None or chosen.scan is None:
        return scales
    first, end = chosen.scan.get_array_range()
    low = experiment.scan.get_array_range()[0]
    return scales[first - low : end - low]


def n_images(experiment: Any) -> int:
    """How many images a dxtbx experiment has; 1 of a still."""
    return 1 if experiment.scan is None else experiment.scan.get_num_images()


def _fluences(params: Any, experiment: Any) -> tuple[tuple[float, ...], str]:
    for name in ("fluence", "flux", "exposure_s", "beamsize_mm"):
        if getattr(params, name) is not None:
            positive(getattr(params, name), f"beam.{name}")
    images = n_images(experiment)
    if params.fluence is not None:
        fluence = params.fluence
        return (fluence,) * images, f"Fluence: {fluence:.4g} photons/m^2 an image, as given"
    flux, flux_from = params.flux, "beam.flux"
    if flux is None:
        flux, flux_from = experiment.beam.get_flux(), "the beam model"
    times, times_from = [params.exposure_s] * images, "beam.exposure_s"
    if params.exposure_s is None:
        times, times_from = exposure_times(experiment.scan, images), "the scan"
    missing = [
        name
        for name, value in (
            ("the flux, photons/s (beam.flux; the beam model's is 0)", flux),
            ("the exposure time, s (beam.exposure_s; the scan has none)", max(times, key=abs)),
            ("the beam's size, mm (beam.beamsize_mm)", params.beamsize_mm),
        )
        if not value
    ]
    if missing:
        raise Sorry(
            "how many photons arrive is not known: give beam.fluence (photons/m^2), or "
            + " and ".join(missing)
        )
    checks.positive(flux, f"the flux, photons/s, of {flux_from}")
    checks.positive(times, f"the exposure time, s, of {times_from}")
    sizes = params.beamsize_mm
    area = sizes[0] * sizes[-1] * 1e-6
    fluences = tuple(flux * time / area for time in times)
    return fluences, (
        f"Fluence: {fluences[0]:.4g} photons/m^2 an image = {flux:.4g} photons/s ({flux_from}) x "
        f"{times[0]:.4g} s ({times_from}) / ({sizes[0]:g} x {sizes[-1]:g} mm^2)"
    )


def exposure_times(scan: Any, n_images: int) -> list[float]:
    """s of every image, 0 where the scan does not say."""
    times = dxtbx_versions.exposure_times(scan)
    return times if len(times) == n_images else [0.0] * n_images
