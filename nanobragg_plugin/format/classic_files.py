"""The image files of nanoBragg.c as bytes: raw floats, SMV integers, SMV noise, PGM.

Each is byte for byte what its -floatfile, -intfile, -noisefile and -pgmfile hold for the same
pixels; the caller gives the bytes a name. Images are ``[slow, fast]``. A region of interest is
nanoBragg.c's -roi, (fast_min, fast_max, slow_min, slow_max), all inclusive, and may reach beyond
the image; outside it every pixel of the integer files is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Roi = tuple[int, int, int, int]

#: Headers come in blocks of so many bytes.
HEADER_BLOCK = 512


@dataclass(frozen=True)
class SmvHeader:
    """What the header says, in the units it is printed in: pixels, mm, degrees, Angstrom.

    Pairs are X and Y as printed, of the convention that names them; dials_origin_mm has three
    numbers, xds_org is in pixels.
    """

    fast_pixels: int
    slow_pixels: int
    pixel_size_mm: float
    distance_mm: float
    close_distance_mm: float
    wavelength_ang: float
    beam_center_mm: tuple[float, float]
    adxv_center_mm: tuple[float, float]
    mosflm_center_mm: tuple[float, float]
    denzo_beam_mm: tuple[float, float]
    dials_origin_mm: tuple[float, float, float]
    xds_org: tuple[float, float]
    phi_deg: float
    osc_deg: float
    twotheta_deg: float


@dataclass(frozen=True)
class Statistics:
    """What nanoBragg.c prints of an image.

    max_I: the brightest rendered pixel, photons, or 0 if none is above 0.
    max_at: its (fast, slow), the first in raster order if there are several; None where max_I is 0.
    mean, rms: over the rendered pixels; the mean square is divided by one less than their number.
    rmsd: from that mean, over all pixels of the region of interest, masked ones included.
    """

    max_I: float
    max_at: tuple[int, int] | None
    mean: float
    rms: float
    rmsd: float


def window(shape: tuple[int, int], roi: Roi | None) -> tuple[slice, slice]:
    """The pixels of a region of interest as slices of an image ``[slow, fast]``; None: all."""
    n_slow, n_fast = shape
    fast_min, fast_max, slow_min, slow_max = roi or (0, n_fast - 1, 0, n_slow - 1)
    return (
        slice(max(slow_min, 0), max(min(slow_max + 1, n_slow), 0)),
        slice(max(fast_min, 0), max(min(fast_max + 1, n_fast), 0)),
    )


def float_bytes(image: np.ndarray) -> bytes:
    """-floatfile: photons ``[slow, fast]`` as little-endian float32, no header."""
    return _checked(image).astype("<f4").tobytes()


def smv_header(header: SmvHeader) -> bytes:
    """The header, padded with spaces to the HEADER_BYTES it states.

    These are nanoBragg.c's 512, unless its text is longer. nanoBragg.c then writes the pixels
    right after the text and still says 512, so that no reader finds them (of a PILATUS 6M the
    text has 518 bytes); here such a header has 1024 bytes and says so.
    """
    size = HEADER_BLOCK
    while len(text := _header_text(header, size)) > size:
        size += HEADER_BLOCK
    return text.ljust(size)


def smv_bytes(header: SmvHeader, image: np.ndarray) -> bytes:
    """-intfile and -noisefile: header, then the pixels uint16 ``[slow, fast]``, little-endian."""
    shape = (header.slow_pixels, header.fast_pixels)
    if image.dtype != np.uint16 or image.shape != shape:
        raise ValueError(f"the header is of uint16 {shape}, the image {image.dtype} {image.shape}")
    return smv_header(header) + image.astype("<u2").tobytes()


def statistics(
    image: np.ndarray, roi: Roi | None = None, rendered: np.ndarray | None = None
) -> Statistics:
    """Of photons ``[slow, fast]``, float32; rendered: bool ``[slow, fast]``, all if None.

    Sums run in raster order, so that they are nanoBragg.c's (one thread) to the last digit.
    """
    inside = window(image.shape, roi)
    pixels = _checked(image)[inside]
    shown = pixels if rendered is None else pixels[rendered[inside]]
    mean = _sum(shown) / max(shown.size, 1)
    with np.errstate(over="ignore"):
        squares = shown * shown  # in float32, as there
    deviations = pixels.astype(np.float64) - mean
    max_I = float(shown.max(initial=0.0))
    return Statistics(
        max_I=max_I,
        max_at=_first_at(pixels, max_I, rendered, inside),
        mean=mean,
        rms=(_sum(squares) / max(shown.size - 1, 1)) ** 0.5,
        rmsd=(_sum(deviations * deviations) / max(pixels.size - 1, 1)) ** 0.5,
    )


def intfile_scale(scale: float, max_I: float) -> float:
    """Counts per photon of -intfile: -scale, or what makes the brightest pixel 55000."""
    if scale > 0:
        return scale
    return 55000.0 / max_I if max_I > 0 else 1.0


def pgm_scale(scale: float, rmsd: float, scale_of_intfile: float) -> float:
    """Grey levels per photon of -pgmfile: -pgmscale, or what makes five rmsd 250."""
    if scale > 0:
        return scale
    return 250.0 / (5.0 * rmsd) if rmsd > 0 else scale_of_intfile


def scaled_integers(
    image: np.ndarray, scale: float, adc_offset_adu: float, roi: Roi | None = None
) -> np.ndarray:
    """Pixels of -intfile, uint16 ``[slow, fast]``: photons times `scale` (see `intfile_scale`)
    plus the offset, rounded to the nearest integer and clipped to 0 ... 65535.
    """
    inside = window(image.shape, roi)
    photons = _checked(image)[inside].astype(np.float64)
    counts = photons * intfile_scale(scale, float(photons.max(initial=0.0))) + adc_offset_adu
    # floorf(): the half is added in float64, the sum then rounded to float32
    rounded = np.floor((np.clip(counts, 0.0, 65535.0) + 0.5).astype(np.float32))
    return _placed(rounded, image.shape, inside, np.uint16)


def noise_integers(
    photons: np.ndarray, adc_offset_adu: float, roi: Roi | None = None
) -> tuple[np.ndarray, int]:
    """Pixels of -noisefile, uint16 ``[slow, fast]``, and the number of overloads.

    photons: float64 ``[slow, fast]``, drawn. The sum with the offset is cut to an integer; above
    65535 it is 65535 and an overload. (Below 0, where nanoBragg.c's is undefined, it is 0.)
    """
    inside = window(photons.shape, roi)
    counts = _finite(np.asarray(photons, dtype=np.float64))[inside] + adc_offset_adu
    clipped = np.clip(counts, 0.0, 65535.0)
    return _placed(clipped, photons.shape, inside, np.uint16), int((counts > 65535.0).sum())


def pgm_bytes(image: np.ndarray, scale: float, roi: Roi | None = None) -> bytes:
    """-pgmfile: photons ``[slow, fast]`` times `scale` (see `pgm_scale`), 255 at most, cut to
    integers. (Below 0, where nanoBragg.c's is undefined, they are 0.)
    """
    if not scale > 0:
        raise ValueError(f"the scale of a PGM file must be positive, not {scale}")
    inside = window(image.shape, roi)
    grey = np.clip(_checked(image)[inside].astype(np.float64) * scale, 0.0, 255.0)
    n_slow, n_fast = image.shape
    head = f"P5\n{n_fast} {n_slow}\n# pixels scaled by {scale:g}\n255\n"
    return head.encode("ascii") + _placed(grey, image.shape, inside, np.uint8).tobytes()


def _header_text(header: SmvHeader, size: int) -> bytes:
    """The header's text without padding, numbers as by C's %g."""
    x, y, z = header.dials_origin_mm
    numbers = (
        ("PIXEL_SIZE", header.pixel_size_mm),
        ("DISTANCE", header.distance_mm),
        ("WAVELENGTH", header.wavelength_ang),
        *zip(("BEAM_CENTER_X", "BEAM_CENTER_Y"), header.beam_center_mm),
        *zip(("ADXV_CENTER_X", "ADXV_CENTER_Y"), header.adxv_center_mm),
        *zip(("MOSFLM_CENTER_X", "MOSFLM_CENTER_Y"), header.mosflm_center_mm),
        *zip(("DENZO_X_BEAM", "DENZO_Y_BEAM"), header.denzo_beam_mm),
        ("DIALS_ORIGIN", None),
        *zip(("XDS_ORGX", "XDS_ORGY"), header.xds_org),
        ("CLOSE_DISTANCE", header.close_distance_mm),
        ("PHI", header.phi_deg),
        ("OSC_START", header.phi_deg),
        ("OSC_RANGE", header.osc_deg),
        ("TWOTHETA", header.twotheta_deg),
    )
    lines = [
        "{",
        f"HEADER_BYTES={size};",
        "DIM=2;",
        "BYTE_ORDER=little_endian;",
        "TYPE=unsigned_short;",
        f"SIZE1={header.fast_pixels};",
        f"SIZE2={header.slow_pixels};",
        # the origin's line ends without a semicolon
        *(
            f"{name}={x:g},{y:g},{z:g}" if value is None else f"{name}={value:g};"
            for name, value in numbers
        ),
        "DETECTOR_SN=000;",
        "BEAMLINE=fake;",
        "}\f",
    ]
    return "\n".join(lines).encode("ascii")


def _first_at(
    pixels: np.ndarray, value: float, rendered: np.ndarray | None, inside: tuple[slice, slice]
) -> tuple[int, int] | None:
    """(fast, slow) of the first rendered pixel of a window with a value; None for the value 0."""
    if value == 0:
        return None
    hits = pixels == np.float32(value)
    if rendered is not None:
        hits &= rendered[inside]
    slow, fast = np.unravel_index(int(hits.argmax()), hits.shape)
    return int(fast) + inside[1].start, int(slow) + inside[0].start


def _sum(values: np.ndarray) -> float:
    """One after the other in float64; numpy's own sum adds pairwise."""
    if not values.size:
        return 0.0
    return float(np.add.accumulate(values.reshape(-1), dtype=np.float64)[-1])


def _checked(image: np.ndarray) -> np.ndarray:
    """The image as float32, which is what nanoBragg.c holds; ValueError unless finite."""
    if image.ndim != 2:
        raise ValueError(f"an image is [slow, fast], not of shape {image.shape}")
    with np.errstate(over="ignore"):
        return _finite(np.asarray(image, dtype=np.float32))


def _finite(image: np.ndarray) -> np.ndarray:
    if not np.isfinite(image).all():
        raise ValueError("the image has values that are not finite")
    return image


def _placed(
    values: np.ndarray, shape: tuple[int, int], inside: tuple[slice, slice], dtype: type
) -> np.ndarray:
    """The values, cut to integers, in their window of an image of zeros."""
    image = np.zeros(shape, dtype=dtype)
    image[inside] = values.astype(dtype)
    return image
