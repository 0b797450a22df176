"""What a reader is shown of a comparison: notes, tables and pictures, for text and for HTML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nanobragg_plugin.compare import plots

#: Rows of a table of images or experiments that are shown; the JSON has all.
MOST_ROWS = 20


@dataclass(frozen=True)
class Table:
    """Cells are text."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """pictures: caption -> PNG."""

    title: str
    notes: tuple[str, ...]
    tables: tuple[Table, ...]
    pictures: dict[str, bytes]


def number(value: Any, digits: int = 4) -> str:
    """A figure as text; - of what is not there."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "-"
    if isinstance(value, (int, np.integer)):
        return str(value)
    return f"{value:.{digits}g}"


def _cells(*values: Any) -> tuple[str, ...]:
    return tuple(value if isinstance(value, str) else number(value) for value in values)


def _shell(row: dict) -> str:
    high = f"{row['d_max']:.2f}" if row["d_max"] < 1000 else "..."  # the direct beam is near
    return f"{high}-{row['d_min']:.2f}"


def of_models(pairs: list[dict], how: str) -> Section:
    """The models of all pairs of experiments."""
    notes = []
    if len(pairs) > 1:
        notes.append(f"{len(pairs)} pairs of experiments, by their {how}.")
    for pair in pairs[:MOST_ROWS]:
        parts = ((name, pair[name]) for name in ("crystal", "detector", "goniometer", "scan"))
        for name, part in parts:
            if part and "reason" in part:
                notes.append(f"Experiment {pair['other']}, {name}: {part['reason']}.")
    rows = [row for pair in pairs[:MOST_ROWS] for row in _model_rows(pair, len(pairs) > 1)]
    tables = [Table("Models", ("", "true", "other", "error", ""), tuple(rows))]
    good = [p["crystal"] for p in pairs if "reason" not in p["crystal"]]
    if len(good) > 1:
        tables.append(_summary(good))
    if len(pairs) > MOST_ROWS:
        notes.append(f"The first {MOST_ROWS} are shown; the JSON has all.")
    return Section("Models", tuple(notes), tuple(tables), {})


def _summary(crystals: list[dict]) -> Table:
    names = {
        "misorientation, degrees": "misorientation_deg",
        "cell length, %": "cell_error_percent",
        "cell angle, degrees": "angle_error_deg",
    }
    rows = []
    for label, name in names.items():
        values = [crystal[name] for crystal in crystals]
        rows.append(_cells(label, float(np.median(values)), float(max(values))))
    return Table(f"{len(crystals)} crystals", ("error", "median", "largest"), tuple(rows))


def _model_rows(pair: dict, several: bool) -> list[tuple[str, ...]]:
    rows: list[tuple] = []
    if several:
        rows.append((f"experiments {pair['true']} and {pair['other']}", "", "", "", ""))
    crystal, detector = pair["crystal"], pair["detector"]
    if "reason" not in crystal:
        names = ("a", "b", "c", "alpha", "beta", "gamma")
        for at, (name, a, b) in enumerate(zip(names, crystal["cell_true"], crystal["cell"])):
            unit = "Å" if at < 3 else "degrees"
            rows.append((name, f"{a:.4f}", f"{b:.4f}", f"{round(b - a, 4) + 0.0:.4f}", unit))
        rows.append(("space group", *crystal["space_groups"], "", ""))
        rows.append(("misorientation", "", "", crystal["misorientation_deg"], "degrees"))
        varying = crystal["misorientation_along_scan_deg"]
        if varying is not None:
            rows.append(("largest along the scan", "", "", varying, "degrees"))
    beam = pair["beam"]
    wavelength = beam["wavelength_true"], beam["wavelength_error"]
    rows.append(
        ("wavelength", *(f"{x:.6g}" for x in (wavelength[0], sum(wavelength))), wavelength[1], "Å")
    )
    rows.append(("beam direction", "", "", beam["direction_error_deg"], "degrees"))
    rows.append(("polarization fraction", "", "", beam["polarization_fraction_error"], ""))
    if "reason" not in detector:
        fast, slow = detector["beam_centre_error_px"]
        rows.append(("beam centre", "", "", f"{fast:.4f}, {slow:.4f}", "pixels (fast, slow)"))
        distance = detector["distance_true_mm"], detector["distance_error_mm"]
        rows.append(("distance", f"{distance[0]:.4f}", f"{sum(distance):.4f}", distance[1], "mm"))
        rows.append(("largest shift of a panel", "", "", detector["largest_shift_mm"], "mm"))
        rows.append(("largest tilt of a panel", "", "", detector["largest_tilt_deg"], "degrees"))
    goniometer, scan = pair["goniometer"], pair["scan"]
    if goniometer and "reason" not in goniometer:
        rows.append(("rotation axis", "", "", goniometer["axis_error_deg"], "degrees"))
        for name in ("fixed_rotation", "setting_rotation"):
            turn = goniometer[f"{name}_error_deg"]
            rows.append((name.replace("_", " "), "", "", turn, "degrees"))
    if scan and "reason" not in scan:
        ranges = (f"{a} to {b}" for a, b in (scan["image_range_true"], scan["image_range"]))
        rows.append(("images", *ranges, "", ""))
        rows.append(("start of the scan", "", "", scan["start_error_deg"], "degrees"))
        rows.append(("width of an image", "", "", scan["width_error_deg"], "degrees"))
    return [_cells(*row) for row in rows]


def of_images(figures: dict, kept: dict) -> Section:
    """Pixels."""
    header = ("pixels", "mean true", "mean", "CC", "rms", "with Z", "mean Z", "width Z", "chi²/N")
    names = (
        *("pixels", "mean_true", "mean", "cc", "rms"),
        *("z_pixels", "z_mean", "z_width", "chi2"),
    )

    def row(label: Any, of: dict) -> tuple[str, ...]:
        return _cells(label, *(of[name] for name in names))

    images, shells = figures["images"], figures["shells"]
    panel, slow, fast = figures["largest_at"]
    notes = [
        "The truth is "
        + (
            "photons expected: sigma² of a pixel is what the truth has there."
            if figures["truth_is_expected"]
            else "counts: sigma² of a difference is the sum of both."
        ),
        f"Pixels of fewer than {figures['minimum_photons']:g} photons have no Z; the sum of their "
        f"differences is {number(figures['dim_pixels_difference'])} photons.",
        f"The largest difference is {number(figures['largest_difference'])} photons, in image "
        f"{figures['largest_in_image']}, panel {panel}, at slow {slow}, fast {fast}.",
    ]
    if len(images) > MOST_ROWS:
        notes.append(f"Of {len(images)} images {MOST_ROWS} are shown; the JSON has all.")
    tables = (
        Table(
            "By resolution, Å; units are photons",
            ("shell", *header),
            (*(row(_shell(s), s) for s in shells), row("all", figures)),
        ),
        Table(
            "By image", ("image", *header), tuple(row(i["image"], i) for i in images[:MOST_ROWS])
        ),
    )
    return Section("Images", tuple(notes), tables, _image_pictures(figures, kept))


def _image_pictures(figures: dict, kept: dict) -> dict[str, bytes]:
    """caption -> PNG."""
    images, shells = figures["images"], figures["shells"]
    histogram, bright = figures["z_histogram"], figures["z_histogram_bright"]
    pictures = {
        f"Residuals of image {kept['image']}, of each block of pixels the largest; grey: none": (
            plots.residual_map(kept["maps"])
        ),
        "Z-scores": plots.histogram(
            histogram["edges"],
            {
                "all pixels": histogram["counts"],
                f"of {bright['photons_from']:g} photons or more": bright["counts"],
            },
            "Z",
        ),
        "By resolution": plots.by_shell(
            shells,
            {"CC": [s["cc"] for s in shells], "chi²/N": [s["chi2"] for s in shells]},
            "CC, chi²/N",
        ),
    }
    if len(images) > 1:
        pictures["By image"] = plots.by_image(
            [i["image"] for i in images],
            {"CC": [i["cc"] for i in images], "chi²/N": [i["chi2"] for i in images]},
            "CC, chi²/N",
        )
    return pictures


def of_reflections(figures: dict) -> Section:
    """Found, missed and false spots, places and intensities."""
    shells, threshold = figures["shells"], figures["threshold_photons"]
    names = ("true", "found", "missed", "found_percent", "other", "below_threshold", "false")
    header = ("true", "found", "missed", "found %", "other", "of dimmer ones", "false")

    def row(label: str, of: dict) -> tuple[str, ...]:
        return _cells(label, *(of[name] for name in names))

    notes = [
        f"Of {figures['true_of_any_brightness']} true reflections {figures['true']} have "
        f"{threshold:g} photons or more."
    ]
    indexing = figures["indexing"]
    if indexing:
        notes.append(
            f"Of {indexing['of_those_found']} reflections that are indexed and where a true one is "
            f"{indexing['right']} have its indices ({number(indexing['right_percent'])} %)."
        )
    else:
        notes.append(
            "Indices are not compared: that takes both experiment lists, of the same lattice."
        )
    rows = (*(row(_shell(s), s) for s in shells), row("all", figures))
    tables = [Table("Found, missed and false, by resolution, Å", ("shell", *header), rows)]
    pictures = {
        f"True reflections of {threshold:g} photons and more, and false ones": plots.by_shell(
            shells,
            {name: [s[name] for s in shells] for name in ("found", "missed", "false")},
            "reflections",
            stacked=True,
        )
    }
    for what, errors in figures["centroids"].items():
        tables.append(_centroid_table(what, errors))
        axes = ("fast, pixels", "slow, pixels", "rotation, images")
        pictures[f"Rms error of {what} positions"] = plots.by_shell(
            errors["shells"],
            {axis: [s["rms"][i] for s in errors["shells"]] for i, axis in enumerate(axes)},
            "rms error",
        )
    if figures["intensities"]:
        note, table, more = _intensity_parts(figures["intensities"])
        notes.append(note)
        tables.append(table)
        pictures.update(more)
    return Section("Reflections", tuple(notes), tuple(tables), pictures)


def _centroid_table(what: str, errors: dict) -> Table:
    def row(label: str, of: dict) -> tuple[str, ...]:
        return _cells(label, of["n"], *of["mean"], *of["rms"])

    axes = ("fast", "slow", "rotation")
    header = ("shell", "number", *(f"mean {a}" for a in axes), *(f"rms {a}" for a in axes))
    rows = (*(row(_shell(s), s) for s in errors["shells"]), row("all", errors))
    return Table(f"Errors of {what} positions, pixels and images, other - true", header, rows)


def _intensity_parts(figures: dict) -> tuple[str, Table, dict[str, bytes]]:
    """A note, a table and pictures of intensities."""
    names = ("n", "cc", "r", "deviation_mean", "deviation_width")

    def row(label: str, of: dict) -> tuple[str, ...]:
        return _cells(label, *(of[name] for name in names))

    shells, spread = figures["shells"], figures["deviation_over_sigma"]
    how = "fitted" if figures["scale_fitted"] else "given"
    note = (
        f"{figures['column']} is {number(figures['scale'])} times the true photons ({how}); "
        f"(I - k I_true)/sigma has the mean {number(spread['mean'])} and the width "
        f"{number(spread['width'])} ({number(spread['robust_width'])} of its middle part)."
    )
    header = ("shell", "number", "CC", "R", "mean ΔI/σ", "width ΔI/σ")
    rows = (*(row(_shell(s), s) for s in shells), row("all", figures))
    return note, Table("Intensities by resolution, Å", header, rows), _pictures(figures)


def _pictures(figures: dict) -> dict[str, bytes]:
    shells, spread = figures["shells"], figures["deviation_over_sigma"]
    series = {name: [s[key] for s in shells] for name, key in (("CC", "cc"), ("R", "r"))}
    found = {f"CC and R of {figures['column']}": plots.by_shell(shells, series, "CC, R")}
    if spread["n"]:
        found[f"(I - k I_true)/sigma of {figures['column']}"] = plots.histogram(
            spread["edges"], {"reflections": spread["counts"]}, "(I - k I_true)/sigma"
        )
    return found


def of_merged(figures: dict, true: np.ndarray, found: np.ndarray) -> Section:
    """Merged intensities; true, found [n]: on one scale."""
    shells, spread = figures["shells"], figures["deviation_over_sigma"]
    rows = [_cells(_shell(s), s["n"], s["cc"], s["r"]) for s in shells]
    rows.append(_cells("all", figures["n"], figures["cc"], figures["r"]))
    note = (
        f"{figures['n']} unique reflections are in both, of {figures['n_true']} and "
        f"{figures['n_other']}; merged under the truth's symmetry, Friedel mates too."
    )
    if spread["n"]:
        note += (
            f" (I - k I_true)/sigma has the mean {number(spread['mean'])} and the width "
            f"{number(spread['width'])}."
        )
    pictures = _pictures({**figures, "column": "merged intensities"})
    pictures["Merged intensities, on one scale"] = plots.scatter(true, found, ("true", "other"))
    table = Table("By resolution, Å", ("shell", "number", "CC", "R"), tuple(rows))
    return Section("Merged intensities", (note,), (table,), pictures)
