"""PHIL files may come from strangers, and libtbx.phil evaluates what they say as Python.

A number is given to `eval`, so is what follows `.type =` and `.call =`. Before libtbx sees the
arguments of a command they are looked through here: a number must be one, or simple arithmetic.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from libtbx.phil import parse
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.strangers import read_text
from nanobragg_plugin.run.messages import of_phil

#: The names of PHIL files, as DIALS' parser has them.
PHIL_FILES = (".phil", ".param", ".params", ".eff", ".def")
#: Larger ones are no parameters.
MAX_BYTES = 1 << 22
#: Characters of one number, or list of numbers.
MAX_NUMBERS = 100_000
#: Numbers, names as None and pi, and arithmetic without powers: no call, attribute or index.
_ARITHMETIC = re.compile(r"[\w\s.,+\-*/()]*\Z", re.ASCII)
_CALL_OR_POWER = re.compile(
    r"[\w)]\s*\(|\*\s*\*|//|__|(?<![\w.])[a-zA-Z_]\w*\s*\.|\.\s*(?![eE][\d+-])[a-zA-Z_]",
    re.ASCII,
)
_NUMERIC = ("int", "float")
_ATTRIBUTE = re.compile(r"(?:^|(?<=[\s;{}]))\.(type|call)\s*=\s*([^\n]*)")
#: A type as a listing of parameters has it: float(value_min=0, allow_none=True).
_PLAIN_TYPE = re.compile(r"\w+\s*(\(\s*(\w+\s*=\s*[\w.+-]+\s*,?\s*)*\))?\s*\Z", re.ASCII)
_INCLUDE = re.compile(r"^\s*include\s+(file|scope)\b", re.MULTILINE)


def check_arguments(args: list[str], scope: Any) -> None:
    """`Sorry` for an argument or PHIL file with more in it than parameters.

    scope: the command's. What is no parameter, or has no valid value, is left to the parser.
    """
    interpreter = scope.command_line_argument_interpreter()
    sources = []
    for arg in args:
        if arg.endswith(PHIL_FILES) and Path(arg).exists():
            sources.append(parse_file(arg))
        elif "=" in arg:
            _check_text(arg, arg.split("=", 1)[0][:100])
            try:
                sources.append(interpreter.process_arg(arg))
            except (Sorry, RuntimeError, ValueError, AssertionError):
                continue
    _check_numbers(sources, scope)


def parse_file(name: str) -> Any:
    """A PHIL file, parsed but not evaluated; `Sorry` for what is none."""
    text = read_text(name, "a PHIL file", MAX_BYTES)
    _check_text(text, name)
    if _INCLUDE.search(text):
        raise Sorry(f"{name}: include is not followed; give that file as an argument of its own")
    try:
        return parse(text)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).replace("input line", "line").split())
        raise Sorry(f"{name} is not a PHIL file: {reason[:300]}") from error


def _check_text(text: str, where: str) -> None:
    """`Sorry` for attributes that would be evaluated while the text is parsed."""
    for kind, value in _ATTRIBUTE.findall(text):
        if kind == "call" or not _PLAIN_TYPE.match(value.split("#")[0].strip()):
            raise Sorry(f"{where}: .{kind} is not for a user's parameters; leave it away")


def _check_numbers(sources: list[Any], scope: Any) -> None:
    """`Sorry` for parsed sources in which a number is an expression that could do anything."""
    try:
        with of_phil():
            definitions = scope.fetch(sources=sources).all_definitions()
    except Sorry:
        return  # the parser will say what is wrong, and evaluate nothing
    for item in definitions:
        if not getattr(item.object.type, "phil_type", "").startswith(_NUMERIC):
            continue
        text = " ".join(word.value for word in item.object.words)
        if len(text) > MAX_NUMBERS:
            raise Sorry(f"{item.path} has {len(text)} characters; give numbers")
        if not _ARITHMETIC.match(text) or _CALL_OR_POWER.search(text):
            shown = " ".join(text.split())[:60]
            raise Sorry(f"{item.path}={shown!r}: give numbers, not an expression")
