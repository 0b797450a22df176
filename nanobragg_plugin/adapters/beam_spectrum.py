"""The spectrum of the PHIL scope `beam.spectrum`, and the beam model that goes with it."""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

from dxtbx.format.Registry import get_format_class_for_file
from dxtbx.model import Beam
from libtbx.utils import Sorry
from scitbx.array_family import flex

from nanobragg_plugin import sampling
from nanobragg_plugin.adapters import checks
from nanobragg_plugin.adapters import spectrum as spectra
from nanobragg_plugin.adapters.geometry_phil import set_mu
from nanobragg_plugin.adapters.phil_values import positive
from nanobragg_plugin.adapters.spectrum import Spectrum
from nanobragg_plugin.adapters.strangers import refuse_pickles

logger = logging.getLogger("dials.nanobragg_plugin.adapters.beam_spectrum")

#: How far the mean of a spectrum of its own energies may be from the beam model's, relative.
AGREEMENT = 0.01
#: What libtbx makes of a choice `none`.
NONE = (None, "none")
#: Shapes that have energies of their own, not relative to the beam model's.
ABSOLUTE = ("spectrum_file", "image_set")
#: Which shapes a parameter belongs to, and which it needs.
BELONGS = {
    "fwhm_percent": ("gaussian", "pink", "two_colour"),
    "separation_ev": ("two_colour",),
    "spectrum_file": ("spectrum_file",),
}
NEEDED = {
    "gaussian": ("fwhm_percent",),
    "pink": ("fwhm_percent",),
    "two_colour": ("separation_ev",),
    "spectrum_file": ("spectrum_file",),
}


def with_spectrum(params: Any, experiment: Any) -> tuple[Any, Spectrum | None, tuple[str, ...]]:
    """The dxtbx experiment, its beam one of one wavelength, that of the spectrum's mean photon
    energy; the spectrum, None where there is none; and lines for the log.

    Panels that lack a mu, which of a polychromatic beam could not be known before, get it.
    params: the scope beam.spectrum, extracted. The experiment is a copy where its beam is another.
    """
    _check(params)
    beam = experiment.beam
    polychromatic = hasattr(beam, "get_wavelength_range")
    if params.shape in NONE and not polychromatic:
        return experiment, None, ()
    wavelength, found = _found(params, experiment, polychromatic)
    notes = (f"Spectrum: {found}",)
    if polychromatic:
        beam = monochromatic(beam, found.wavelength)
        for number, panel in enumerate(experiment.detector):
            set_mu(panel, number, beam)
        notes += ("The polychromatic beam becomes one of the mean photon energy",)
    elif abs(found.wavelength / wavelength - 1) > 1e-9:
        beam = _of_wavelength(beam, found.wavelength)
        notes += (f"The beam's {wavelength:.6g} A become that of the mean photon energy",)
    else:
        return experiment, found, notes
    changed = copy.copy(experiment)
    changed.beam = beam
    return changed, found, notes


def _found(params: Any, experiment: Any, polychromatic: bool) -> tuple[float | None, Spectrum]:
    """The beam's wavelength, Angstrom, None where it has none, and the spectrum."""
    beam = experiment.beam
    own = _of_range(params, beam) if polychromatic else None
    if polychromatic and own is None and params.shape not in ABSOLUTE:
        raise Sorry(
            "the beam is polychromatic and has no wavelength range: set it, or give "
            f"beam.spectrum.shape={' or '.join(ABSOLUTE)}"
        )
    wavelength = None
    if own or not polychromatic:
        wavelength = own.wavelength if own else beam.get_wavelength()
        checks.positive(wavelength, "the wavelength of the beam, Angstrom,")
    found = own if params.shape in NONE else _spectrum(params, experiment, wavelength)
    if not found.energies[0] > 0:
        raise Sorry(
            "beam.spectrum reaches energies below 0: make it narrower (beam.spectrum.fwhm_percent, "
            "beam.spectrum.separation_ev)"
        )
    return wavelength, found


def streak_notes(params: Any, experiment: Any) -> tuple[str, ...]:
    """A line for the log where the wavelengths of a continuous spectrum are too far apart for
    smooth streaks; params: the scope beam.spectrum; experiment: the core's."""
    step = sampling.streak_step(experiment)
    lines = params.shape in NONE or (params.shape == "two_colour" and params.fwhm_percent is None)
    if lines or step <= 1:
        return ()
    enough = math.ceil(1.05 * params.samples * step)
    return (
        f"note: neighbouring wavelengths put a spot up to {step:.1f} of its widths apart: streaks "
        f"look like beads; beam.spectrum.samples={enough} would be smooth",
    )


def spectrum_of(imageset: Any, index: int) -> Spectrum:
    """The spectrum of image `index`, from 0, of a dxtbx image set, as its format class reads it;
    `Sorry` where there is none."""
    path = imageset.get_path(index)
    what = f"the spectrum of image {index + 1} of {path}"
    refuse_pickles([path])
    try:
        format_class = get_format_class_for_file(path)
        if format_class is None:
            raise Sorry("dxtbx does not know the file's format")
        reader = format_class.get_instance(path, **(imageset.params() or {}))
        model = reader.get_spectrum(imageset.indices()[index])
    # a format class of any beamline: not there, of another signature, not implemented ...
    except Exception as error:
        raise Sorry(
            f"{what} cannot be read ({checks.one_line(error)}): give beam.spectrum.spectrum_file"
        ) from None
    if model is None:
        raise Sorry(f"{path} holds no spectrum: give beam.spectrum.spectrum_file")
    found, negative = spectra.of_dxtbx(model, what)
    _note_negative(negative, what)
    return found


def monochromatic(model: Any, wavelength: float) -> Beam:
    """A dxtbx beam of one wavelength, Angstrom, that is as a PolychromaticBeam otherwise."""
    beam = Beam(model.get_sample_to_source_direction(), wavelength)
    names = ("divergence", "sigma_divergence", "polarization_normal", "polarization_fraction")
    names += ("flux", "transmission", "probe", "sample_to_source_distance")
    for name in names:
        if hasattr(model, f"get_{name}") and hasattr(beam, f"set_{name}"):
            getattr(beam, f"set_{name}")(getattr(model, f"get_{name}")())
    return beam


def _of_wavelength(model: Any, wavelength: float) -> Any:
    """A copy of a dxtbx beam, of another wavelength, at its scan points too."""
    beam = copy.deepcopy(model)
    factor = model.get_wavelength() / wavelength
    points = checks.scan_points(model)
    beam.set_wavelength(wavelength)
    if points:
        scaled = [tuple(factor * x for x in s0) for s0 in map(tuple, model.get_s0_at_scan_points())]
        beam.set_s0_at_scan_points(flex.vec3_double(scaled))
    return beam


def _check(params: Any) -> None:
    shape = params.shape
    for name, shapes in BELONGS.items():
        if getattr(params, name) is not None and shape not in shapes:
            raise Sorry(
                f"beam.spectrum.{name} has no meaning for beam.spectrum.shape={shape or 'none'}: "
                f"give shape={' or '.join(shapes)}, or leave it away"
            )
    for name in NEEDED.get(shape, ()):
        if getattr(params, name) is None:
            raise Sorry(f"beam.spectrum.shape={shape} needs beam.spectrum.{name}")
    if params.fwhm_percent is not None:
        positive(params.fwhm_percent, "beam.spectrum.fwhm_percent")
    if shape == "two_colour":
        if params.separation_ev == 0:
            raise Sorry("beam.spectrum.separation_ev=0: the colours would be one; give a distance")
        if not 0 < params.second_share < 1:
            raise Sorry(
                f"beam.spectrum.second_share={params.second_share:g}: one colour would have all "
                "photons; give a share between 0 and 1"
            )


def _of_range(params: Any, beam: Any) -> Spectrum | None:
    """An even spectrum of a PolychromaticBeam's wavelength range; None where it has none."""
    low, high = beam.get_wavelength_range()
    if not (math.isfinite(low) and math.isfinite(high) and 0 < low <= high):
        return None
    if low == high:
        raise Sorry(f"the wavelength range of the polychromatic beam is {low:g} to {high:g} A")
    return spectra.even_wavelengths(low, high, params.samples)


def _spectrum(params: Any, experiment: Any, wavelength: float | None) -> Spectrum:
    """The spectrum that the scope describes, for a beam model of a wavelength, Angstrom, which may
    be None for a spectrum of its own energies."""
    if params.shape in ABSOLUTE:
        return _of_its_own_energies(params, experiment, wavelength)
    mean = spectra.EV_ANGSTROM / wavelength
    fwhm = (params.fwhm_percent or 0.0) / 100 * mean
    if params.shape == "gaussian":
        return spectra.gaussian(mean, fwhm, params.samples)
    if params.shape == "pink":
        return spectra.gaussian(mean, fwhm, params.samples, params.low_side)
    colours = params.separation_ev, params.second_share
    return spectra.two_colour(mean, *colours, fwhm, params.samples)


def _of_its_own_energies(params: Any, experiment: Any, wavelength: float | None) -> Spectrum:
    """That of a file or of the images."""
    if params.shape == "image_set":
        found, name = _of_images(experiment), "the images' spectrum"
    else:
        name = params.spectrum_file
        found, negative = spectra.read_spectrum(name, params.samples)
        _note_negative(negative, name)
    if wavelength is not None:
        _check_agreement(found, name, experiment.beam, wavelength)
    return spectra.rebinned(found, params.samples)


def _of_images(experiment: Any) -> Spectrum:
    """The spectrum that all images of an experiment have."""
    imageset = experiment.imageset
    if imageset is None:
        raise Sorry(
            "beam.spectrum.shape=image_set, but the experiment has no images: give a list that "
            "points at some"
        )
    places = range(len(imageset))
    if experiment.scan is not None and hasattr(imageset, "get_array_range"):
        # images may have been chosen, of which the set has more
        first, end = experiment.scan.get_array_range()
        before = imageset.get_array_range()[0]
        places = range(first - before, end - before)
    found = [spectrum_of(imageset, index) for index in places]
    for index, other in zip(places, found):
        if len(other.energies) != len(found[0].energies) or not (
            (abs(other.energies - found[0].energies) < 1e-6 * found[0].energies).all()
            and abs(other.photons - found[0].photons).max() < 1e-6
        ):
            path = imageset.get_path(index)
            raise Sorry(
                f"the spectra of images {places[0] + 1} and {index + 1} of {path} differ, but "
                " images of one experiment are simulated with one spectrum: give each image "
                "an experiment of its own"
            )
    return found[0]


def _check_agreement(found: Spectrum, name: str, beam: Any, wavelength: float) -> None:
    """`Sorry` where a spectrum of its own energies is not one of this beam model."""
    if abs(found.wavelength / wavelength - 1) > AGREEMENT:
        raise Sorry(
            f"the mean photon energy of {name} is {found.mean:.6g} eV ({found.wavelength:.5g} A), "
            f"but the beam's wavelength {wavelength:.5g} A: mend the file, or give "
            f"geometry.beam.wavelength={found.wavelength:.6g}"
        )
    if checks.scan_points(beam):
        lengths = [sum(x * x for x in s0) ** -0.5 for s0 in beam.get_s0_at_scan_points()]
        if max(abs(length / wavelength - 1) for length in lengths) > 1e-6:
            raise Sorry(
                f"the beam's wavelength varies over the scan, but the spectrum of {name} does not: "
                "give an experiment list whose beam does not vary"
            )


def _note_negative(count: int, what: str) -> None:
    if count:
        logger.warning("WARNING: %d values of %s are below 0 and taken for 0", count, what)
