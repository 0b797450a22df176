"""What a refinement found, as numbers and text."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import torch

from nanobragg_plugin.refine import blurs
from nanobragg_plugin.refine.joint import Joint
from nanobragg_plugin.refine.minimise import Found
from nanobragg_plugin.refine.sigmas import Sigmas, Undetermined, sigmas

#: Correlations of at least this are printed.
HIGH = 0.9
#: Numbers of a curve, or of images, up to which each is printed.
MOST_ROWS = 3
#: Experiments up to which what each has of its own is printed, correlations that are, and names and
#: combinations in a message.
MOST_EXPERIMENTS, MOST_PAIRS, MOST_NAMES = 10, 20, 12
#: What is said below a table that has not all.
SHORTENED = (
    "[*], _*, .*: the least and the largest of the numbers along the scan, of images, of "
    "experiments; PREFIX.json has all"
)
#: chi^2 per degree of freedom from which on, and correlation up to which, a model has missed.
BAD, ALIKE = 2.0, 0.5


def found_sigmas(target: Joint, found: Found) -> Sigmas:
    """From the information at the end."""
    return sigmas(target, found.state, found.normal.arrow()[0])


def figures(
    target: Joint, found: Found, known: Sigmas, left: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """All figures, as JSON has them; a sigma of None: undetermined; left: see `schedule.Ran`."""
    parameters = target.model.parameters
    values = parameters.outer(found.state.inner)
    at = dict(zip(known.names, range(len(known.names))))
    rows, varying = [], _varying(known.names)
    for number, one in enumerate(parameters.all):
        if one.name in target.amplitudes or one.name in varying:
            continue
        rows.append(
            {
                "name": one.name,
                "unit": one.unit,
                "start": one.value,
                "value": float(values[number]),
                "refined": one.name in at,
                "reached": one.name not in left,
                "sigma": _finite(float(known.sigma[at[one.name]])) if one.name in at else None,
            }
        )
    of_images = {"scale": found.state.log_scale.exp(), "B": found.state.b}
    values = torch.cat([values[:0], *(of_images[kind] for kind in target.kinds)]).tolist()
    for name, value in zip(target.shared_names[len(target.free) :], values):
        unit, start = ("", 1.0) if name.startswith("scale") else ("A^2", 0.0)
        row = {"name": name, "unit": unit, "start": start, "value": value, "refined": True}
        rows.append({**row, "reached": True, "sigma": _finite(float(known.sigma[at[name]]))})
    freedom = target.degrees_of_freedom()
    return {
        "parameters": rows,
        "correlations": _correlations(known, target.amplitudes),
        "undetermined": [
            {
                "combination": dict(zip(one.names, one.shares)),
                "sigma_over_reach": one.sigma,
                "correlation": one.correlation,
            }
            for one in spoken(known, target.amplitudes)
        ],
        "amplitudes": len(target.amplitudes & set(target.free)),
        "pixels": target.data.n,
        "images": len(target.data.pictures),
        "backgrounds": target.data.boxes if target.terms else 0,
        "chi_sqr_per_degree_of_freedom": found.normal.chi_sqr / max(freedom, 1),
        "loss": found.normal.loss,
        "converged": found.converged,
        "reason": found.reason,
    }


def _varying(names: tuple[str, ...]) -> set[str]:
    """What curves of these names are of, which is 0 beside them."""
    of = {re.sub(r"\[\d+\]", "", name) for name in names if "[" in name}
    return of | {name.partition(".")[0] for name in of}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _correlations(known: Sigmas, amplitudes: frozenset[str]) -> list[dict[str, Any]]:
    """The pairs that are correlated most."""
    pairs = sorted(known.spread.pairs(HIGH), key=lambda pair: -abs(pair[2]))
    return [
        {"names": [known.names[i], known.names[j]], "correlation": value}
        for i, j, value in pairs
        if {known.names[i], known.names[j]} - amplitudes
        and max(float(known.sigma[i]), float(known.sigma[j])) < math.inf
    ]


def rows_of(content: dict[str, Any]) -> list[list[str]]:
    """Of the table that is printed: name, unit, start, value, sigma; the numbers of a curve, and
    what each image has, if there are more than MOST_ROWS, in one row: the least and the largest; so
    too what each experiment has, if there are more than MOST_EXPERIMENTS."""
    rows, groups = [], {}
    each = Counter(map(_of_any, {_group(one["name"]) for one in content["parameters"]}))
    for one in content["parameters"]:
        name = _group(one["name"])
        name = _of_any(name) if each[_of_any(name)] > MOST_EXPERIMENTS else name
        groups.setdefault(name, []).append(one)
    for name, group in groups.items():
        rows += [_range(name, group)] if len(group) > MOST_ROWS else _single_rows(group)
    return rows


def _group(name: str) -> str:
    """What a parameter is one of: `a[0]` of `a[]`, `scale_3.1` of `scale_*.1`; itself."""
    if re.match(r"(scale|B)_\d+(\.\d+)?$", name):
        return re.sub(r"_\d+", "_*", name)
    return re.sub(r"\[\d+\]", "[*]", name)


def _of_any(name: str) -> str:
    """Of an experiment's parameter, `a.7`, what those of all are called, `a.*`."""
    return re.sub(r"\.\d+$", ".*", name)


def shortened(content: dict[str, Any]) -> bool:
    """Whether the table has not all rows."""
    return len(rows_of(content)) < len(content["parameters"])


def _range(name: str, group: list[dict[str, Any]]) -> list[str]:
    known = [one["sigma"] for one in group if one["sigma"] is not None]
    digits = _digits(min(known)) if known else 5
    low, high = (f(one["value"] for one in group) for f in (min, max))
    sigma = f"{min(known):.2g} to {max(known):.2g}" if known else _as_given(group[0])
    lost = sum(one["refined"] and one["sigma"] is None for one in group)
    sigma = f"{lost} undetermined" if lost else sigma
    start, value = f"{group[0]['start']:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"
    return [name, group[0]["unit"], start, value, sigma]


def _as_given(one: dict[str, Any]) -> str:
    return "held" if one.get("reached", True) else "not reached"


def _single_rows(group: list[dict[str, Any]]) -> list[list[str]]:
    rows = []
    for one in group:
        # a start of the scale is found, and stages before the last may have had others
        same = math.isclose(one["value"], one["start"], rel_tol=1e-9, abs_tol=1e-12)
        sigma = _as_given(one) if same else "set earlier"
        if one["refined"]:
            sigma = "undetermined" if one["sigma"] is None else f"{one['sigma']:.2g}"
        digits = 5 if one["sigma"] is None else _digits(one["sigma"])
        numbers = (f"{one[key]:.{digits}f}" for key in ("start", "value"))
        rows.append([one["name"], one["unit"], *numbers, sigma])
    return rows


def _digits(sigma: float) -> int:
    """After the point, for two figures of a sigma."""
    return max(0, min(8, 1 - math.floor(math.log10(sigma)))) if sigma > 0 else 5


def spoken(known: Sigmas, amplitudes: frozenset[str]) -> list[Undetermined]:
    """Combinations that are not determined, but those of amplitudes alone, which are many, and are
    left out of what is written."""
    return [one for one in known.undetermined if set(one.names) - amplitudes]


def missed(target: Joint, found: Found) -> str:
    """What to say of models whose photons are not where the counts are; "" of others."""
    chi_sqr = found.normal.chi_sqr / max(target.degrees_of_freedom(), 1)
    if chi_sqr < BAD:
        return ""
    likeness = blurs.likeness(replace(target, free=(), image_scales=False), found.state)
    if likeness > ALIKE:
        return ""
    return (
        f"the models found do not describe the counts (chi^2 per degree of freedom {chi_sqr:.3g}, "
        f"correlation {likeness:.2f}): the start is too far off, or reflections, amplitudes and "
        "images do not belong together; what was found is written all the same"
    )


def doubtful(content: dict[str, Any]) -> str:
    """A warning of models that fit badly; "" of others."""
    chi_sqr = content["chi_sqr_per_degree_of_freedom"]
    if chi_sqr < BAD:
        return ""
    return (
        f"WARNING: chi^2 per degree of freedom is {chi_sqr:.3g}: amplitudes, domains, spread, "
        "sampling or background of the models are not those of the counts, and sigmas are too small"
    )


def correlated(content: dict[str, Any]) -> list[str]:
    """Lines of the largest correlations."""
    pairs = content["correlations"]
    lines = [
        f"  correlation of {one['names'][0]} and {one['names'][1]}: {one['correlation']:.4f}"
        for one in pairs[:MOST_PAIRS]
    ]
    more = len(pairs) - MOST_PAIRS
    return [*lines, f"  and of {more} more pairs, in PREFIX.json"] if more > 0 else lines


def undetermined(combined: list[Undetermined]) -> str:
    """What to say of parameters that the data do not determine."""
    names = list(dict.fromkeys(name for one in combined for name in one.names))
    combinations = [str(one) for one in combined]
    return (
        f"the data do not determine {_some(names, ', ')}: only other combinations of them than "
        f"{_some(combinations, '; ')} (parts of what each may be wrong by); refine fewer of them "
        "(refine.parameters), or restrain one (refine.restraint)"
    )


def _some(words: list[str], between: str) -> str:
    """The first MOST_NAMES of words, and how many more there are."""
    more = len(words) - MOST_NAMES
    return between.join(words[:MOST_NAMES]) + (f"{between}{more} more" if more > 0 else "")
