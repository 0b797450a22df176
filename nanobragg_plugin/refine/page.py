"""A refinement as one HTML file that needs no other and no network."""

from __future__ import annotations

import shlex
from typing import Any

from nanobragg_plugin.compare import html
from nanobragg_plugin.compare.sections import Section, Table
from nanobragg_plugin.refine import report

#: Titles of the pictures' sections, and what is below them.
CAPTIONS = (
    ("The way there", "Loss a pixel after each step; stages differ in how they are sampled"),
    (
        "Shoeboxes",
        "Counts, expected photons (colours go with the root) and residuals of the brightest and of "
        "those that fit worst, all images of a shoebox together",
    ),
    (
        "Along the scan",
        "Curves with a band of one sigma, images with bars; all numbers in the JSON",
    ),
)


def page(content: dict[str, Any], pictures: list[bytes]) -> str:
    """Of all figures (`report.figures`), and the pictures of the way there, of shoeboxes and, where
    something varies along scans, of them."""
    end = "It converged." if content["converged"] else f"Not converged: {content['reason']}."
    images = content["images"]
    about = [
        f"{content['pixels']} pixels of {images} image{'s' if images > 1 else ''}; chi² per degree "
        f"of freedom {content['chi_sqr_per_degree_of_freedom']:.4f}. {end}",
        f"{content['program']}: {shlex.join(content['arguments'])}",
    ]
    sections = [_parameters(content)]
    for (title, caption), picture in zip(CAPTIONS, pictures):
        sections.append(Section(title, (), (), {caption: picture}))
    return html.page("nanobragg.refine", about, sections)


def _parameters(content: dict[str, Any]) -> Section:
    header = "parameter", "unit", "start", "value", "sigma"
    rows = tuple(map(tuple, report.rows_of(content)))
    tables = [Table("Values and sigmas", header, rows)]
    pairs = tuple(
        (*one["names"], f"{one['correlation']:.4f}") for one in content["correlations"][:20]
    )
    if pairs:
        tables.append(Table("Largest correlations", ("of", "and", "correlation"), pairs))
    notes = tuple(
        "Not determined by the data: "
        + " ".join(f"{share:+.2f} {name}" for name, share in one["combination"].items())
        for one in content["undetermined"]
    )
    if report.shortened(content):
        notes = (report.SHORTENED, *notes)
    return Section("Parameters", notes, tuple(tables), {})
