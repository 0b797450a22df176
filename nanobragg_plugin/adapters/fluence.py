"""How many photons arrive, and where the figure came from."""

from __future__ import annotations

from typing import Any

from libtbx.utils import Sorry

from nanobragg_plugin.adapters import checks
from nanobragg_plugin.adapters.phil_values import positive


def fluence_of_images(params: Any, experiment: Any) -> tuple[tuple[float, ...], str]:
    """photons/m^2 of every image, and a line for the log.

    params: the PHIL scope beam, extracted; experiment: dxtbx's.
    """
    for name in ("fluence", "flux", "exposure_s", "beamsize_mm"):
        if getattr(params, name) is not None:
            positive(getattr(params, name), f"beam.{name}")
    n_images = 1 if experiment.scan is None else experiment.scan.get_num_images()
    if params.fluence is not None:
        fluence = params.fluence
        return (fluence,) * n_images, f"Fluence: {fluence:.4g} photons/m^2 an image, as given"
    flux, flux_from = params.flux, "beam.flux"
    if flux is None:
        flux, flux_from = experiment.beam.get_flux(), "the beam model"
    times, times_from = [params.exposure_s] * n_images, "beam.exposure_s"
    if params.exposure_s is None:
        times, times_from = exposure_times(experiment.scan, n_images), "the scan"
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
    if scan is None:
        return [0.0] * n_images
    times = [float(t) for t in scan.get_exposure_times()]
    return times if len(times) == n_images else [0.0] * n_images
