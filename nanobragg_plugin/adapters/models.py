"""dxtbx models as the simulator's dataclasses, one function a model.

All tensors are float64, in dxtbx's laboratory frame (no frame is changed here). What cannot
be simulated is a `Sorry` that says which model, what is wrong with it, and how to mend it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from libtbx.utils import Sorry
from torch import Tensor

from nanobragg_plugin.adapters import checks, dxtbx_versions
from nanobragg_plugin.models import Beam, Crystal, Exposure, Goniometer, Panel
from nanobragg_plugin.mosaic import identity_umats
from nanobragg_plugin.rotation import phi_steps

logger = logging.getLogger("dials.nanobragg_plugin.adapters.models")

#: A start angle this small a part of an image's width is 0 but for rounding (-0.3 + 3 x 0.1).
ROUNDING_OF_WIDTH = 1e-9


def panels(
    detector: object, masks: Sequence[object] | None = None, device: torch.device | str = "cpu"
) -> tuple[Panel, ...]:
    """The panels of a dxtbx detector, in its order.

    Geometry is the bare origin, fast, slow and pixel size of each panel in the laboratory,
    whatever its hierarchy and its pixel-to-millimetre strategy. masks: one entry a panel, a
    numpy or flex bool array [slow, fast], True where a pixel is good, or None; the untrusted
    rectangles of the panel are masked besides.
    """
    if masks is not None and len(masks) != len(detector):
        raise Sorry(f"there are {len(masks)} masks for a detector of {len(detector)} panels")
    return tuple(
        _panel(panel, number, None if masks is None else masks[number], device)
        for number, panel in enumerate(detector)
    )


def _panel(panel: object, number: int, mask: object | None, device: torch.device | str) -> Panel:
    label = f"panel {number} ({panel.get_name() or 'unnamed'})"
    image_size = tuple(int(n) for n in panel.get_image_size())
    if min(image_size) < 1:
        raise Sorry(f"the image size of {label} is {image_size}: it has no pixels")
    fast = checks.finite(panel.get_fast_axis(), f"the fast axis of {label}")
    slow = checks.finite(panel.get_slow_axis(), f"the slow axis of {label}")
    checks.orthogonal_axes(fast, slow, label)
    origin = checks.finite(panel.get_origin(), f"the origin of {label}")
    if abs(float(origin @ torch.linalg.cross(fast, slow))) < 1e-6:
        raise Sorry(f"the plane of {label} goes through the crystal; move the panel")
    pixel_size = checks.positive(panel.get_pixel_size(), f"the pixel size of {label}, mm,")
    thickness = checks.not_negative(panel.get_thickness(), f"the thickness of {label}, mm,")
    mu = checks.not_negative(panel.get_mu(), f"the absorption mu of {label}, 1/mm,")
    if "Offset" in panel.get_px_mm_strategy().name():
        logger.warning("The pixel offsets of %s are not simulated: its pixels are regular", label)
    good = _mask(panel, mask, label)
    return Panel(
        origin=origin.to(device),
        fast=fast.to(device),
        slow=slow.to(device),
        pixel_size=pixel_size.to(device),
        image_size=image_size,
        thickness=thickness.to(device),
        mu=mu.to(device),
        mask=None if good is None else good.to(device),
        name=panel.get_name(),
    )


def _mask(panel: object, mask: object | None, label: str) -> Tensor | None:
    """[slow, fast] bool, True where a pixel is good, or None if all are."""
    shape = tuple(reversed(panel.get_image_size()))
    good = torch.ones(shape, dtype=torch.bool)
    if mask is not None:
        array = mask.as_numpy_array() if hasattr(mask, "as_numpy_array") else mask
        if tuple(array.shape) != shape:
            raise Sorry(
                f"the mask of {label} is {tuple(array.shape)} pixels (slow, fast), its image "
                f"{shape}: give a mask made for this detector"
            )
        good &= torch.as_tensor(array.copy()).bool()
    if len(panel.get_mask()):
        good &= torch.as_tensor(panel.get_untrusted_rectangle_mask().as_numpy_array())
    return None if bool(good.all()) else good


def beam(model: object, fluence: float | Tensor, device: torch.device | str = "cpu") -> Beam:
    """A dxtbx beam as one source; fluence: photons/m^2 of an image.

    The direction is along s0 (dxtbx's `direction` points back to the source). The polarization
    axis, the E vector, is polarization_normal x s0, and the Kahn factor 2 f - 1 of dxtbx's
    polarization fraction f: 0.999 means 99.9 % of the photons have their E vector there.
    """
    _xrays_of_one_wavelength(model)
    wavelength = checks.positive(model.get_wavelength(), "the wavelength of the beam, Angstrom,")
    s0 = checks.finite(model.get_s0(), "s0 of the beam")
    axis = _polarization_axis(model, s0)
    fraction = checks.finite(model.get_polarization_fraction(), "the polarization fraction")
    if not 0 <= fraction <= 1:
        raise Sorry(f"the polarization fraction of the beam is {float(fraction)}, not 0 to 1")
    direction, wavelength = (s0 * wavelength)[None], wavelength[None]
    if checks.scan_points(model):
        points = [
            checks.finite(s0, f"s0 of the beam at scan point {i}")
            for i, s0 in enumerate(model.get_s0_at_scan_points())
        ]
        wavenumber = torch.linalg.vector_norm(torch.stack(points), dim=-1)
        checks.positive(wavenumber.tolist(), "the length of s0 at the scan points")
        direction, wavelength = torch.stack(points) / wavenumber[:, None], 1 / wavenumber
    return Beam(
        direction=direction[:, None].to(device),
        wavelength=wavelength[:, None].to(device),
        weight=torch.ones(1, dtype=torch.float64, device=device),
        kahn_factor=(2 * fraction - 1).to(device),
        polarization_axis=axis.to(device),
        fluence=torch.as_tensor(fluence, dtype=torch.float64, device=device),
    )


def _polarization_axis(model: object, s0: Tensor) -> Tensor:
    """[3] unit vector along polarization_normal x s0 of a dxtbx beam."""
    normal = checks.finite(model.get_polarization_normal(), "the polarization normal of the beam")
    axis = torch.linalg.cross(normal, s0)
    length = torch.linalg.vector_norm(axis)
    if length <= 1e-6 * torch.linalg.vector_norm(normal) * torch.linalg.vector_norm(s0):
        raise Sorry(
            f"the polarization normal {normal.tolist()} of the beam is 0 or parallel to s0: set "
            "it to the normal of the plane that holds s0 and the E vector, (0, 1, 0) at most "
            "synchrotrons"
        )
    return axis / length


def _xrays_of_one_wavelength(model: object) -> None:
    """`Sorry` if a dxtbx beam is polychromatic or not of x-rays."""
    if dxtbx_versions.is_polychromatic(model):
        raise Sorry(
            "the beam is polychromatic and has no s0: only a beam of one direction and "
            "wavelength (dxtbx's monochromatic Beam) can be simulated"
        )
    probe = dxtbx_versions.probe_name(model)
    if probe != "x-ray":
        raise Sorry(f"the beam's probe is {probe}: only the scattering of x-rays is simulated")


def goniometer(model: object | None, device: torch.device | str = "cpu") -> Goniometer:
    """A dxtbx goniometer, of one axis or several: R = S Rot(e, phi) F.

    e is the axis at datum; `get_rotation_axis()` is S e, the axis in the laboratory, and would
    apply S twice. None, as stills have it: R = 1 whatever phi, because A is in the laboratory
    then (dials' StillsRayPredictor); its axis is (0, 0, 0).
    """
    if model is None:
        identity = torch.eye(3, dtype=torch.float64, device=device)
        return Goniometer(torch.zeros_like(identity[0]), identity, identity[None])
    axis = checks.finite(model.get_rotation_axis_datum(), "the rotation axis of the goniometer")
    length = torch.linalg.vector_norm(axis)
    if length < 1e-9:
        raise Sorry("the rotation axis of the goniometer is (0, 0, 0): give it a direction")
    what = "the setting rotation of the goniometer"
    if checks.scan_points(model):
        settings = list(model.get_setting_rotation_at_scan_points())
        setting = torch.stack(
            [checks.rotation_matrix(s, f"{what} at scan point {i}") for i, s in enumerate(settings)]
        )
    else:
        setting = checks.rotation_matrix(model.get_setting_rotation(), what)[None]
    fixed = checks.rotation_matrix(
        model.get_fixed_rotation(), "the fixed rotation of the goniometer"
    )
    return Goniometer((axis / length).to(device), fixed.to(device), setting.to(device))


def crystal_orientation(model: object) -> Tensor:
    """A = U B of a dxtbx crystal, columns a*, b*, c* in 1/Angstrom: [points, 3, 3], points 1 of
    a static crystal."""
    points = checks.scan_points(model)
    if points:
        values = [model.get_A_at_scan_point(i) for i in range(points)]
        names = [f"A of the crystal at scan point {i}" for i in range(points)]
    else:
        values, names = [model.get_A()], ["A of the crystal"]
    matrices = []
    for value, name in zip(values, names):
        matrix = checks.finite(value, name).reshape(3, 3)
        edges = torch.linalg.vector_norm(matrix, dim=0).prod()
        if torch.linalg.det(matrix).abs() <= 1e-6 * edges:
            raise Sorry(f"{name} is {matrix.tolist()}, whose cell has no volume; mend the cell")
        matrices.append(matrix)
    return torch.stack(matrices)


@dataclass(frozen=True)
class CrystalOptions:
    """What a dxtbx crystal does not say about the domains (see `nanobragg_plugin.models.Crystal`,
    whose names these are). umats None: one perfect domain."""

    Ncells_abc: Sequence[float] | Tensor
    xtal_shape: str = "gauss"
    fudge: float | Tensor = 1.0
    spot_scale: float | Tensor = 1.0
    umats: Tensor | None = None
    mosaic_frame: str = "crystal"


def crystal(model: object, options: CrystalOptions, device: torch.device | str = "cpu") -> Crystal:
    """A dxtbx crystal (static, scan-varying, or with a mosaic model, which is not read here)."""

    def tensor(value: float | Sequence[float] | Tensor) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float64, device=device)

    checks.positive(tensor(options.Ncells_abc).detach().cpu().tolist(), "Ncells_abc")
    umats = identity_umats() if options.umats is None else options.umats
    return Crystal(
        A=crystal_orientation(model).to(device),
        Ncells_abc=tensor(options.Ncells_abc),
        xtal_shape=options.xtal_shape,
        fudge=tensor(options.fudge),
        spot_scale=tensor(options.spot_scale),
        umats=tensor(umats),
        mosaic_frame=options.mosaic_frame,
    )


def exposure(
    scan: object | None,
    image_index: int = 0,
    phisteps: int = 1,
    phi_sampling: str = "midpoint",
    phistep_deg: float | None = None,
) -> Exposure:
    """Image `image_index` (0 is the first of the scan, whatever its number) of a dxtbx scan.

    phistep_deg: width / phisteps unless given. A still (no scan, or one of no width) is one step
    at the scan's angle, 0 without one, in the middle of its image.
    """
    images = 1 if scan is None else scan.get_num_images()
    if not 0 <= image_index < images:
        raise Sorry(f"there is no image of index {image_index} in a scan of {images} images")
    checks.refuse_time_of_flight(scan)
    if not checks.is_rotation(scan):
        start = 0.0
        if scan is not None and dxtbx_versions.has_oscillation(scan):
            start = float(checks.finite(scan.get_oscillation()[0], "the angle of the scan"))
        return Exposure(phi_steps(start, 0.0, 1), (image_index + 0.5,))
    width = float(checks.finite(scan.get_oscillation(), "the oscillation of the scan")[1])
    start = scan.get_angle_from_array_index(scan.get_array_range()[0] + image_index)
    if abs(start) < ROUNDING_OF_WIDTH * abs(width):
        start = 0.0  # the carryover depends on phi being exactly 0
    phi = phi_steps(start, width, phisteps, phi_sampling, phistep_deg)
    # phistep_deg is seldom given; without it this is (k + 1/2)/phisteps, or k/phisteps
    share = 1 / phisteps if phistep_deg is None else phistep_deg / width
    offset = 0.5 if phi_sampling == "midpoint" else 0.0
    return Exposure(phi, tuple(image_index + (k + offset) * share for k in range(phisteps)))
