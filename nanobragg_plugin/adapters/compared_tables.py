"""dials reflection tables as arrays, in places that two tables have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import dxtbx_versions


@dataclass(frozen=True)
class Spots:
    """A reflection table; arrays [n] or [n, 3], or None where the table has no such column.

    experiment: from 0, -1 of none; group: which images (see `groups`); place: where it is sought,
    as observed or as predicted, which placed_by says: (fast, slow) in pixels and the image, counted
    from 0, of a still its number in its file + 0.5; NaN where there is none. hkl: 0 0 0 of what is
    not indexed. intensity, sigma: NaN of what was not measured. d: Angstrom, NaN unknown.
    """

    name: str
    is_truth: bool
    experiment: np.ndarray
    group: np.ndarray
    panel: np.ndarray
    place: np.ndarray
    placed_by: str
    hkl: np.ndarray | None
    observed: np.ndarray | None
    predicted: np.ndarray | None
    intensity: np.ndarray | None
    sigma: np.ndarray | None
    intensity_name: str
    d: np.ndarray
    partiality: np.ndarray | None

    def __len__(self) -> int:
        return len(self.panel)


def spots_of(table: Any, name: str, experiments: Any, names: list[str], intensity: str) -> Spots:
    """The arrays of a table. experiments: its models, or None; names: see `groups`; intensity:
    auto, sum or profile. Of an integrated table what was integrated. `Sorry` where it has no
    positions."""
    integrated = table.get_flags(table.flags.integrated, all=False)
    if integrated.count(True):
        table = table.select(integrated)
    n = len(table)
    experiment = _experiment(table, experiments, name)
    group, still, number = _images(experiment, experiments, names, name)
    observed, predicted = (
        _places(table, column, still, number) for column in ("xyzobs.px.value", "xyzcal.px")
    )
    if observed is None and predicted is None:
        raise Sorry(f"{name} has no positions: neither xyzobs.px.value nor xyzcal.px")
    if predicted is None or (observed is not None and not integrated.count(True)):
        place, placed_by = observed, "observed"
    else:  # what a weak reflection's pixels say of its place is noise
        place, placed_by = predicted, "predicted"
    if predicted is not None:  # dials.index leaves 0 in what it does not index
        predicted = np.where((predicted[:, :2] == 0).all(axis=1)[:, None], np.nan, predicted)
    hkl = _rows(table, "miller_index")
    values, sigma, label = _intensities(table, intensity, name)
    return Spots(
        name=name,
        is_truth="f_squared" in table,
        experiment=experiment,
        group=group,
        panel=np.array(table["panel"], dtype=int) if "panel" in table else np.zeros(n, int),
        place=place,
        placed_by=placed_by,
        hkl=None if hkl is None or not hkl.any() else hkl.astype(int),
        observed=observed,
        predicted=predicted,
        intensity=values,
        sigma=sigma,
        intensity_name=label,
        d=_d(table, experiments, experiment, place),
        partiality=np.array(table["partiality"]) if "partiality" in table else None,
    )


def by_prediction(spots: Spots) -> Spots:
    """Sought at its predicted positions where there are any."""
    if spots.predicted is None:
        return spots
    known = np.isfinite(spots.predicted).all(axis=1)[:, None]
    place = np.where(known, spots.predicted, spots.place)
    return replace(spots, place=place, placed_by="predicted")


def sources_of(experiments: Any) -> list[tuple[str, int | None]]:
    """Of each experiment the name of its images' file, or of models without images `#number`,
    and of a still its number in that file, from 0 (None of a scan)."""
    result = []
    for at, experiment in enumerate(experiments):
        images, scan = experiment.imageset, experiment.scan
        still = scan is None or experiment.goniometer is None
        if images is not None and len(images):
            name, number = Path(images.paths()[0]).name, images.indices()[0]
        else:  # crystals of the same scan share its images
            name, number = f"#{at if still else experiments.indices(scan)[0]}", 0
        result.append((name, int(number) if still else None))
    return result


def groups(true: Any, other: Any) -> tuple[list[str], list[str]]:
    """The names of the image files of two experiment lists, so that the same place in both means
    the same images: by name where the other's are among the truth's, else in their order."""
    names = [list(dict.fromkeys(name for name, _ in sources_of(side))) for side in (true, other)]
    if set(names[1]) <= set(names[0]) and not names[1][0].startswith("#"):
        return names[0], names[0]
    if len(names[0]) == len(names[1]):
        return names[0], names[1]
    raise Sorry(
        f"the true experiments have images in {len(names[0])} files, the others in "
        f"{len(names[1])}, of other names: which belong together cannot be said"
    )


def _experiment(table: Any, experiments: Any, name: str) -> np.ndarray:
    """Which experiment each reflection is of; what is not indexed: the first of its images."""
    n = len(table)
    found = np.array(table["id"], dtype=int) if "id" in table else np.zeros(n, int)
    if experiments is None:
        return found
    if found.max() >= len(experiments):
        raise Sorry(
            f"{name} has reflections of experiment {found.max()}, its experiment list holds "
            f"{len(experiments)}, counted from 0: give the list that belongs to it"
        )
    lost = found < 0
    if lost.any():
        sets = np.array(table["imageset_id"], dtype=int) if "imageset_id" in table else found * 0
        listed = experiments.imagesets()
        first = [
            next(i for i, e in enumerate(experiments) if e.imageset == images) for images in listed
        ] or [0]
        found = np.where(lost, np.array(first)[sets.clip(0, len(first) - 1)], found)
    return found


def _images(
    experiment: np.ndarray, experiments: Any, names: list[str], name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each reflection the group of its images, whether it is of a still, and the still's number
    in its file, from 0."""
    n = len(experiment)
    still = np.zeros(n, bool)
    group, number = np.zeros(n, int), np.zeros(n)
    if experiments is not None:
        sources = sources_of(experiments)
        at = [names.index(source) for source, _ in sources]
        known = experiment >= 0
        group[known] = np.array(at)[experiment[known]]
        number[known] = np.array([still_at or 0 for _, still_at in sources])[experiment[known]]
        still[known] = np.array([still_at is not None for _, still_at in sources])[
            experiment[known]
        ]
    elif len(np.unique(experiment.clip(0))) > 1:
        raise Sorry(
            f"{name} has reflections of several experiments: give the experiment list, which says "
            "of which images they are"
        )
    return group, still, number


def _rows(table: Any, column: str) -> np.ndarray | None:
    """[n, 3] of a column of vectors or indices."""
    return np.array(table[column], dtype=float).reshape(-1, 3) if column in table else None


def _places(table: Any, column: str, still: np.ndarray, number: np.ndarray) -> np.ndarray | None:
    places = _rows(table, column)
    if places is not None:
        places[:, 2] = np.where(still, number + 0.5, places[:, 2])
    return places


def _intensities(table: Any, which: str, name: str) -> tuple:
    """Values and sigmas, NaN where they were not measured, and the column's name."""
    flags = table.flags
    profile = "intensity.prf.value" in table and table.get_flags(flags.integrated_prf).count(True)
    if which == "auto":
        which = "profile" if profile and "f_squared" not in table else "sum"
    if which == "profile" and not profile:
        raise Sorry(f"{name} has no intensities by profile fitting: use reflections.intensity=sum")
    label = "intensity.prf" if which == "profile" else "intensity.sum"
    if f"{label}.value" not in table:
        return None, None, label
    values = np.array(table[f"{label}.value"], dtype=float)
    variance = np.full(len(values), np.nan)
    if f"{label}.variance" in table:
        variance = np.array(table[f"{label}.variance"], dtype=float)
    done = getattr(flags, "integrated_prf" if which == "profile" else "integrated_sum")
    if table.get_flags(flags.integrated, all=False).count(True):
        values[~table.get_flags(done).as_numpy_array()] = np.nan
        bad = table.get_flags(flags.bad_for_scaling, all=False)
        values[bad.as_numpy_array()] = np.nan
    with np.errstate(invalid="ignore"):
        return values, np.sqrt(np.where(variance > 0, variance, np.nan)), label


def _d(table: Any, experiments: Any, experiment: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Resolution: as the table has it, else of the place on the detector, without parallax."""
    d = np.full(len(table), np.nan)
    if "d" in table:
        d = np.array(table["d"], dtype=float)
        d[~(d > 0)] = np.nan
    if experiments is None:
        return d
    panels = np.array(table["panel"], dtype=int) if "panel" in table else np.zeros(len(d), int)
    for number, model in enumerate(experiments):
        for at, panel in enumerate(model.detector):
            use = np.isnan(d) & (experiment == number) & (panels == at)
            if use.any():
                d[use] = d_of_places(panel, model.beam, place[use, :2])
    return d


def d_of_places(panel: Any, beam: Any, px: np.ndarray) -> np.ndarray:
    """Angstrom [...] of pixel coordinates (fast, slow) [..., 2] of a panel, without parallax;
    infinite in the direct beam."""
    dxtbx_versions.require_s0(beam, "the beam of an image")
    axes = np.array([panel.get_fast_axis(), panel.get_slow_axis()])
    s1 = np.array(panel.get_origin()) + (px * np.array(panel.get_pixel_size())) @ axes
    s1 /= np.linalg.norm(s1, axis=-1, keepdims=True)
    s0 = np.array(beam.get_unit_s0())
    with np.errstate(divide="ignore"):
        return beam.get_wavelength() / np.linalg.norm(s1 - s0, axis=-1)
