"""A comparison as one HTML file that needs no other and no network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from nanobragg_plugin.compare.sections import Section, Table

STYLE = """
body { font: 15px/1.45 sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.25rem; border-bottom: 1px solid #999; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.85rem; }
caption { text-align: left; font-weight: bold; padding-bottom: 0.3rem; }
th, td { padding: 0.1rem 0.7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 1px solid #999; } tbody tr:nth-child(even) { background: #f2f4f7; }
figure { display: inline-block; margin: 0.5rem 1rem 1rem 0; vertical-align: top; }
figcaption { font-weight: bold; font-size: 0.85rem; } img { max-width: 100%; }
"""


def page(title: str, about: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole file, HTML that is well-formed XML too."""
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        f'<head><meta charset="utf-8"/><title>{escape(title)}</title>',
        f"<style>{STYLE}</style></head>",
        f"<body><h1>{escape(title)}</h1>",
        *(f"<p>{escape(text)}</p>" for text in about),
    ]
    for section in sections:
        lines.append(f"<section><h2>{escape(section.title)}</h2>")
        lines += [f"<p>{escape(note)}</p>" for note in section.notes]
        lines += [_table(table) for table in section.tables]
        lines += [_picture(caption, png) for caption, png in section.pictures.items()]
        lines.append("</section>")
    return "\n".join([*lines, "</body></html>", ""])


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return (
        f"<table><caption>{escape(table.caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>{rows}</tbody></table>"
    )


def _picture(caption: str, png: bytes) -> str:
    data = base64.b64encode(png).decode("ascii")
    text = escape(caption, quote=True)
    return (
        f'<figure><figcaption>{text}</figcaption><img alt="{text}" '
        f'src="data:image/png;base64,{data}"/></figure>'
    )
