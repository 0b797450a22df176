"""From PHIL and a planned experiment to the model, its data and the stages of its refinement."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from libtbx import Auto
from libtbx.utils import Sorry
from torch import Tensor

from nanobragg_plugin.adapters import checks, detector_levels, refined, shoeboxes
from nanobragg_plugin.adapters.params import Plan
from nanobragg_plugin.adapters.shoeboxes import Boxes
from nanobragg_plugin.models import Exposure, Panel
from nanobragg_plugin.refine import backgrounds, splines
from nanobragg_plugin.refine import parametrisations as parts
from nanobragg_plugin.refine.backgrounds import IN_ONE
from nanobragg_plugin.refine.data import Data, centred, picture
from nanobragg_plugin.refine.noise import Noise
from nanobragg_plugin.refine.parameters import Parameter
from nanobragg_plugin.refine.parametrisations import Model

#: What every model has, for the first stage and the start of the scale.
ALWAYS = ("orientation", "domains", "mosaic", "scale")
#: What each image has of its own, which is no parameter of the models.
OF_IMAGES = "image_scales", "image_b"
#: Before what refine.scan_varying names: what varies along the scan, in a stage.
ALONG_SCAN = "scan_"
#: Axes along and about which a detector moves, by what refine.parameters calls them.
SHIFTS, DISTANCE, TILTS = "detector_shift", "distance", "detector_tilt"


@dataclass(frozen=True)
class Built:
    """A model, and names of its parameters by what refine.parameters calls them."""

    model: Model
    names: dict[str, tuple[str, ...]]


def build(params: Any, plan: Plan, kinds: set[str]) -> Built:
    """The model of a plan; params: extracted; kinds: all that is refined in some stage."""
    if plan.more:
        raise Sorry(
            "the beam has groups of wavelengths with amplitudes of their own, or the domains "
            "several sizes: only one of each is refined; give structure_factors.model.wavelength "
            "one value, and crystal.domain_size_spread_percent=0"
        )
    found, names, design = [], {}, _design(params.refine, plan, kinds)
    kinds = {kind.removeprefix(ALONG_SCAN) for kind in kinds}
    for kind in (*ALWAYS, *sorted(kinds - set(ALWAYS))):
        if kind == "amplitudes":  # of all experiments, when all are known
            names[kind] = []
            continue
        if kind in OF_IMAGES or (kind in (DISTANCE, TILTS) and SHIFTS in names):
            continue
        if kind in (SHIFTS, DISTANCE, TILTS):
            moving = _detector(params, plan)
            each = [[one.name for one in part.parameters] for part in moving]
            for one, cut in ((SHIFTS, slice(2)), (DISTANCE, slice(2, 3)), (TILTS, slice(3, 6))):
                names[one] = [name for own in each for name in own[cut]]
            found += moving
            continue
        part = _part(kind, params, plan)
        if kind in design:
            part = replace(part, design=design[kind])
        elif kind == "b_factor" and design:  # of a cell that does not vary
            a_matrix = plan.experiment.crystal.A[0]
            part = replace(part, metric=a_matrix.T @ a_matrix)
        own = [] if part is None else [one.name for one in part.parameters]
        names[kind] = [name for name in own if "[" not in name]
        if kind in design:
            names[ALONG_SCAN + kind] = [name for name in own if "[" in name]
        if part is not None:
            found.append(part)
    # a cell changes B of A = U B: before anything turns the crystal
    found.sort(key=lambda part: not isinstance(part, parts.Cell))
    start = plan.experiment, plan.structure_factors
    model = Model(start, found)
    return Built(model, {kind: tuple(own) for kind, own in names.items()})


def _design(params: Any, plan: Plan, kinds: set[str]) -> dict[str, Tensor]:
    """[points, knots] of what varies along the scan, by what refine.scan_varying calls it; params:
    the scope refine, extracted."""
    varying = [kind.removeprefix(ALONG_SCAN) for kind in kinds if kind.startswith(ALONG_SCAN)]
    if not varying:
        if params.interval_deg is not Auto:
            raise Sorry("refine.interval_deg is of refine.scan_varying: give that, or leave it out")
        return {}
    scan = plan.dxtbx_experiment.scan
    if not checks.is_rotation(scan) or plan.n_images < 2:
        raise Sorry(
            f"refine.scan_varying: nothing varies along a scan of {plan.n_images} image"
            f"{'s' if plan.n_images > 1 else ''}, or of stills; leave it out (stills are "
            "experiments, each with an orientation of its own)"
        )
    images, width = plan.n_images, scan.get_oscillation()[1]
    given = None if params.interval_deg is Auto else params.interval_deg
    if given is not None and not math.isfinite(given):
        raise Sorry(f"refine.interval_deg={given}: give degrees, or Auto")
    intervals = splines.intervals_of(images, width, given)
    if splines.knots_of(intervals) > images:
        raise Sorry(
            f"refine.interval_deg={given:g} asks for {splines.knots_of(intervals)} numbers of each "
            f"curve, of a scan of {images} images of {width:g} degrees: give more"
        )
    made = splines.design(images + 1, intervals)
    return dict.fromkeys(varying, made)


def _part(kind: str, params: Any, plan: Plan) -> parts.Part | None:
    experiment, crystal = plan.experiment, plan.dxtbx_experiment.crystal
    if kind == "orientation":
        return parts.Orientation()
    if kind == "cell":
        return parts.Cell(**vars(refined.free_cell(crystal)))
    if kind == "domains":
        one = params.refine.sizes == "one"
        return parts.Ncells(tuple(experiment.crystal.Ncells_abc.tolist()), one)
    if kind == "mosaic":
        found = refined.spreads(params.crystal, crystal, params.refine.spreads == "three")
        if found is None:
            return None
        domains = len(experiment.crystal.umats)
        return parts.MosaicSpread(
            found.degrees, domains, found.distribution, found.seed, found.frame
        )
    if kind == "scale":
        return parts.Scale()
    if kind == "b_factor":
        return parts.BFactor()
    beam = experiment.beam
    if kind == "wavelength":
        return parts.Wavelength(parts.mean_wavelength(beam))
    if kind == "beam":
        return parts.BeamDirection(parts.across(beam.direction[0].mean(0)))
    if kind == "divergence":
        found = parts.divergence_of(beam)
        if found == 0:
            raise Sorry(
                "refine.parameters divergence: the beam has none to begin with; give "
                "beam.hdivrange_mrad and beam.vdivrange_mrad"
            )
        return parts.Divergence(found)
    if plan.dxtbx_experiment.goniometer is None:
        raise Sorry(f"refine.parameters {kind}: a still has no rotation axis; leave it out")
    if kind == "setting":
        gonio = experiment.goniometer
        return parts.GoniometerSetting(parts.across(gonio.setting[0] @ gonio.axis))
    return parts.GoniometerAxis(parts.across(experiment.goniometer.axis))


def _detector(params: Any, plan: Plan) -> list[parts.DetectorPlace]:
    """The groups of panels that move, each about its middle; of the whole detector one."""
    panels, scope = plan.experiment.panels, params.refine
    chosen = set(scope.detector_panels or range(len(panels)))
    for number in sorted(chosen):
        if number >= len(panels):
            raise Sorry(f"refine.detector_panels={number}: there are {len(panels)} panels")
    found = []
    groups = detector_levels.groups(plan.dxtbx_experiment.detector, scope.detector_level)
    for number, (_, group) in enumerate(groups):
        moving = tuple(one for one in group if one in chosen)
        if moving:
            first = panels[moving[0]]
            axes = torch.stack([first.fast, first.slow, first.normal])
            pivot = torch.stack([_middle(panels[one]) for one in moving]).mean(0)
            prefix = f"detector_{number}" if scope.detector_level else "detector"
            found.append(parts.DetectorPlace(moving, pivot, axes, prefix))
    return found


def groups_that_move(params: Any, plan: Plan) -> list[str]:
    """A line on what the groups of refine.detector_level are."""
    scope = params.refine
    if not scope.detector_level or not {SHIFTS, DISTANCE, TILTS} & set(scope.parameters):
        return []
    groups = detector_levels.groups(plan.dxtbx_experiment.detector, scope.detector_level)
    words = [f"detector_{n} {name or 'unnamed'}" for n, (name, _) in enumerate(groups)]
    return [f"Groups of panels: {', '.join(words)}"]


def _middle(panel: Panel) -> Tensor:
    size = panel.pixel_size * panel.pixel_size.new_tensor(panel.image_size) / 2
    return panel.origin + size[0] * panel.fast + size[1] * panel.slow


def changes_of(params: Any, known: dict[str, Parameter]) -> dict[str, dict]:
    """Restraints and limits of the scope refine, by names of parameters; `Sorry` where there is
    none of the name."""
    changes: dict[str, dict] = {}
    for text in filter(None, params.restraint):
        names, numbers = _numbers(text, "restraint", "NAME,SIGMA or NAME,SIGMA,MEAN", (1, 2), known)
        if not numbers[0] > 0:
            raise Sorry(f"refine.restraint={text}: sigma must be above 0")
        for name in names:
            mean = numbers[1] if len(numbers) == 2 else known[name].value
            changes.setdefault(name, {})["prior"] = mean, numbers[0]
    for text in filter(None, params.limits):
        names, (low, high) = _numbers(text, "limits", "NAME,LOWEST,HIGHEST", (2,), known)
        if not low <= high:
            raise Sorry(f"refine.limits={text}: the lowest, {low:g}, is above the highest")
        for name in names:
            if not low <= known[name].value <= high:
                start = f"{known[name].value:g}"
                raise Sorry(f"refine.limits={text}: the start, {start}, is not within them")
            changes.setdefault(name, {})["bounds"] = low, high
    return changes


def _numbers(
    text: str, what: str, form: str, counts: tuple[int, ...], known: dict
) -> tuple[list[str], list[float]]:
    """The names and the numbers of a restraint or of limits; a name is of all experiments' that
    have it, `a[*]` of all numbers of the curve, or a pattern."""
    name, *words = (word.strip() for word in text.replace(" ", ",").split(",") if word.strip())
    names = [one for one in known if name in _called(one) or fnmatchcase(one, name)]
    if not names:
        shown = sorted(one for one in known if "(" not in one)
        raise Sorry(f"refine.{what}={text}: the parameters are {', '.join(shown)}")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) not in counts or not all(map(math.isfinite, numbers)):
        raise Sorry(f"refine.{what}={text}: give {form}, finite numbers")
    return names, numbers


def _called(name: str) -> set[str]:
    """What a parameter may be called: with or without its experiment and the place on a curve."""
    alone = name.rpartition(".")[0] or name
    return {
        re.sub(r"\[\d+\]", number, one) for one in (name, alone) for number in (r"\g<0>", "[*]")
    }


def noise_of(params: Any) -> Noise:
    """Of the scope refine.noise, extracted."""
    gaussian = params.model == "gaussian"
    if params.readout_photons and not gaussian:
        raise Sorry("refine.noise.readout_photons is of refine.noise.model=gaussian")
    readout = params.readout_photons if gaussian else None
    return Noise(readout, params.robust or "none", params.threshold)


def data_of(
    plan: Plan,
    boxes: Boxes,
    read: Callable[[int], list],
    progress: Callable[[], None],
    exposure: Callable[[int], Exposure],
    background: str = "plane",
) -> tuple[Data, str]:
    """The pixels of all images that have some, and a note of them. A picture's number is its
    image's, from 0; exposure: of an image; background: one of `target.BACKGROUNDS`."""
    pictures, bad, several = [], 0, 0
    panels = plan.experiment.panels
    for index in range(plan.n_images):
        found, shared = shoeboxes.labels(boxes, index, [panel.shape for panel in panels])
        several += shared
        progress()
        if all((one < 0).all() for one in found):
            continue
        images = [torch.from_numpy(one) for one in read(index)]
        labels = [torch.from_numpy(one) for one in found]
        for label, image, panel in zip(labels, images, panels):
            inside = label >= 0
            good = torch.isfinite(image)
            if panel.mask is not None:
                good &= panel.mask
            bad += int((inside & ~good).sum())
            label[~good] = -1
        fluence = plan.fluences[index]
        pictures.append(picture(images, labels, index, exposure(index), fluence))
    pictures = [one for one in pictures if len(one.counts)]
    if not pictures:
        raise Sorry(
            "no pixel is left: all those of the shoeboxes are masked, overloaded or beyond "
            "sampling.roi"
        )
    if background in IN_ONE:
        data = backgrounds.in_one(pictures, plan.experiment, background == "global")
    else:
        data = centred(pictures, len(boxes.rows))
    note = f"Pixels: {data.n} in {len(pictures)} images; {bad} bad ones left out; {several} in "
    return data, note + "several shoeboxes, of the nearest's background"
