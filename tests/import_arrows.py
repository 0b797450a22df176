"""The arrows of the architecture as a check on sources: who may import whom.

`violations` takes {module name: source} and names every import that goes against the arrows; it
executes nothing. Module names are relative to the package: "geometry", "kernels.dense"; "" is
`nanobragg_plugin/__init__.py`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "nanobragg_plugin"

DIALS = {"cctbx", "dials", "dxtbx", "iotbx", "libtbx", "mmtbx", "pycbf", "scitbx"}
# PIL comes with matplotlib, which cannot do without it.
NUMERIC = {"PIL", "h5py", "matplotlib", "numpy", "scipy", "tqdm"}

# The lowest stratum of the core: nothing of ours below it but itself.
BOTTOM = {"", "_threads", "constants", "cell", "rotation", "ran1"}
# Layer -> (the layers it may import, the foreign packages). A module outside the
# folders is of layer "core", except simulate and what is in BOTTOM.
LAYERS = {
    "bottom": ({"bottom"}, {"torch"}),
    "core": ({"bottom", "core"}, {"torch"}),
    "kernels": ({"bottom", "core", "kernels"}, {"torch"}),
    "simulate": ({"bottom", "core", "kernels"}, {"torch"}),
    "trace": ({"bottom", "core", "kernels", "simulate", "recorder"}, {"torch"}),
    "recorder": ({"bottom", "core", "kernels"}, {"torch"}),
    "jacobian": ({"bottom", "core", "kernels", "simulate"}, {"torch"}),
    "by_reflection": ({"bottom", "core", "kernels", "simulate"}, {"torch"}),
    "phil": ({"phil"}, set()),
    "adapters": ({"bottom", "core", "phil", "adapters"}, {"torch"} | NUMERIC | DIALS),
    "format": ({"bottom", "core", "adapters", "format"}, NUMERIC | DIALS),
    "run": (
        {
            *("bottom", "core", "simulate", "jacobian", "by_reflection", "trace"),
            *("phil", "adapters", "format", "run"),
        },
        {"torch"} | NUMERIC | DIALS,
    ),
    "refine": (
        # compare for its HTML page
        {
            *("bottom", "core", "simulate", "jacobian", "by_reflection", "phil", "adapters"),
            *("compare", "refine"),
        },
        {"torch", "libtbx"} | NUMERIC,
    ),
    "compare": (
        {"bottom", "core", "simulate", "phil", "adapters", "compare"},
        {"torch", "libtbx"} | NUMERIC,
    ),
    "command_line": (
        {"bottom", "phil", "adapters", "format", "run", "refine", "compare", "command_line"},
        {"torch"} | NUMERIC | DIALS,
    ),
}
# The live image format: inside the call that opens a file, never while the module is imported. It
# goes by way of run, which makes of parameters and models the very images that are written. Dask:
# where a cluster is asked for.
INSIDE_FUNCTIONS = {"format": ({"simulate", "run"}, {"torch"}), "run": (set(), {"distributed"})}
REFERENCE = {"kernels.reference", "kernels.reference_detector"}


@dataclass(frozen=True)
class Import:
    """One imported module: `name` is its full name, `at_top` whether importing executes it."""

    name: str
    at_top: bool
    line: int
    member: str | None = None


def read_package(root: Path) -> dict[str, str]:
    """{module name: source} of the package below the repository's root; phil/ is part of it."""
    sources = {}
    for folder, prefix in ((root / PACKAGE, ()), (root / "phil", ("phil",))):
        for path in sorted(folder.rglob("*.py")):
            parts = (*prefix, *path.relative_to(folder).with_suffix("").parts)
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            sources[name] = path.read_text(encoding="utf-8")
    return sources


def violations(sources: dict[str, str]) -> list[str]:
    """One line for each import against the arrows, in the order of the modules."""
    imports = {name: list(_imports(name, text, sources)) for name, text in sources.items()}
    found = []
    for name, its_imports in imports.items():
        for one in its_imports:
            reason = _objection(name, one)
            if reason:
                found.append(f"{name or PACKAGE}:{one.line} imports {one.name}: {reason}")
    graph = {name: _executed(its_imports, sources) for name, its_imports in imports.items()}
    found += [f"{' -> '.join(cycle)}: modules that import each other" for cycle in _cycles(graph)]
    loads_torch = {
        name
        for name, its_imports in imports.items()
        if any(one.at_top and one.name.split(".")[0] == "torch" for one in its_imports)
    }
    for name in sources:
        guilty = (_reachable(name, graph) & loads_torch) - {name}
        if layer(name) == "format" and guilty:
            found.append(f"{name}: importing it imports torch through {sorted(guilty)[0]}")
    return found


def layer(name: str) -> str:
    """The layer of a module of ours."""
    head = name.split(".")[0]
    if name in BOTTOM:
        return "bottom"
    return head if head in LAYERS else "core"


def _objection(name: str, one: Import) -> str | None:
    """What is wrong with one import of module `name`; None: nothing."""
    layers, foreign = LAYERS[layer(name)]
    if not one.at_top:
        more_layers, more_foreign = INSIDE_FUNCTIONS.get(layer(name), (set(), set()))
        layers, foreign = layers | more_layers, foreign | more_foreign
    top, _, rest = one.name.partition(".")
    if top != PACKAGE:
        known = top in sys.stdlib_module_names or top in foreign
        return None if known else f"{layer(name)} may not import {top}"
    if rest in REFERENCE:
        return None if name in REFERENCE else "only tests may"
    if name in REFERENCE:
        return _reference_objection(rest, one)
    if layer(rest) not in layers:
        return f"{layer(name)} may not import {layer(rest)}"
    return None


def _reference_objection(target: str, one: Import) -> str | None:
    """The specification shares data types and constants with the fast kernels, no function."""
    if target == "" or layer(target) in ("bottom", "core"):
        if one.member is not None and one.member[0].isupper():
            return None
    return "the reference shares no helper with the fast kernels"


def _imports(name: str, source: str, sources: dict[str, str]) -> Iterator[Import]:
    """Every import statement of a module, and import_module("...") calls."""
    for node, at_top in _walk(ast.parse(source), True):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, at_top, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(name, node, sources)
            if base == "__future__":
                continue
            for alias in node.names:
                full = f"{base}.{alias.name}"
                if full.startswith(f"{PACKAGE}.") and full[len(PACKAGE) + 1 :] in sources:
                    yield Import(full, at_top, node.lineno)
                else:
                    yield Import(base, at_top, node.lineno, alias.name)
        elif isinstance(node, ast.Call) and node.args:
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            argument = node.args[0]
            if function in ("import_module", "__import__") and isinstance(argument, ast.Constant):
                yield Import(str(argument.value), at_top, node.lineno)


def _walk(node: ast.AST, at_top: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Every node below, and whether it runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        yield child, at_top
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from _walk(child, at_top and not inside and not _is_type_checking(child))


def _is_type_checking(node: ast.AST) -> bool:
    """Whether it is an `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _absolute(name: str, node: ast.ImportFrom, sources: dict[str, str]) -> str:
    """The full name of the module that `from … import` names."""
    if not node.level:
        return node.module or ""
    parts = [PACKAGE, *name.split(".")] if name else [PACKAGE]
    is_package = not name or any(other.startswith(f"{name}.") for other in sources)
    keep = len(parts) - node.level + (1 if is_package else 0)
    return ".".join([*parts[:keep], *([node.module] if node.module else [])])


def _executed(imports: list[Import], sources: dict[str, str]) -> set[str]:
    """Our own modules that importing a module executes, packages above them included."""
    found = set()
    for one in imports:
        top, *rest = one.name.split(".")
        if one.at_top and top == PACKAGE:
            names = {".".join(rest[:length]) for length in range(1, len(rest) + 1)}
            found |= names & sources.keys()
    return found


def _reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    """Every module that importing `start` executes."""
    seen, todo = set(), [start]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += graph[name]
    return seen


def _cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules each of which imports, in the end, every other one."""
    reach = {
        name: set().union(*(_reachable(after, graph) for after in graph[name])) for name in graph
    }
    groups = {
        frozenset(other for other in reach[name] if name in reach[other])
        for name in graph
        if name in reach[name]
    }
    return sorted(sorted(group) for group in groups)
