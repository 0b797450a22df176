"""Read a file of reflections: what kind it is, the array that is meant, its amplitudes.

P1 text ``h k l F`` is read here; everything else through iotbx.  What a file is, is seen from its
content, never from its name.  Pickled Miller arrays, which iotbx would load, are refused: loading
a pickle runs whatever is in it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import iotbx.cif
import iotbx.mtz
import iotbx.pdb
import numpy as np
from cctbx import crystal, miller, sgtbx, uctbx
from cctbx.array_family import flex
from iotbx.reflection_file_reader import any_reflection_file
from libtbx.utils import Sorry, detect_binary_file

from nanobragg_plugin.adapters import child, fdump, mtz_header
from nanobragg_plugin.adapters.checks import one_line
from nanobragg_plugin.adapters.strangers import MAX_TEXT, require_file

# What iotbx's readers raise on files that are not quite what they look like; cctbx's C++ errors
# are RuntimeError.
_READER_ERRORS = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)

#: Of h, k and l.
MAX_INDEX = 1_000_000
#: Lines of text that are taken at a time.
BLOCK = 200_000

_CONTROL_CHARACTERS = bytes(set(range(32)) - set(b"\t\n\r\f\x1a"))


def kind_of_file(path: Path) -> str:
    """``text`` (h k l F), ``dump`` (nanoBragg.c's of that), ``mtz``, ``pdb``, ``cif model``,
    ``cif`` (reflections) or ``other``.

    Sorry where there is no such file, it cannot be read, is empty, or is binary but no MTZ.
    """
    require_file(path, "a file of structure factors")
    try:
        with path.open("rb") as stream:
            head = stream.read(65536)
    except OSError as error:
        raise Sorry(f"Cannot read the structure factors: {error}.") from error
    if not head.strip():
        raise Sorry(f"{path} is empty: no structure factors in it.")
    if head.startswith(b"MTZ "):
        return "mtz"
    if fdump.is_dump(head):
        return "dump"
    binary = head.translate(None, _CONTROL_CHARACTERS) != head
    if binary or detect_binary_file.from_initial_block(file_name=str(path)):
        raise Sorry(
            f"{path} is binary and not an MTZ file: structure factors are read from .mtz, .cif, "
            ".sca, .hkl, XDS, SHELX and CNS files, or from a model (.pdb, .cif)."
        )
    first = next(_meaningful_lines(head.decode("latin-1").splitlines()), (0, ""))[1]
    if first.lower().startswith("data_"):
        return _kind_of_cif(path)
    if len(first.split()) == 4 and _is_number(first.split()[3]):
        return "text"
    try:
        return "pdb" if iotbx.pdb.is_pdb_file(str(path)) else "other"
    except UnicodeDecodeError as error:
        raise Sorry(f"{path} has bytes that are no text (at {error.start}): mend it") from error


def read_hkl_text(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """P1 text: lines ``h k l F``, `#` starts a comment.  Returns the indices ``[n, 3]``, int64,
    and F ``[n]``, float64, electrons.

    Sorry, with the line's number, for anything that is not three integers and a finite F >= 0, or
    for an index that comes again with another F (the same F again is let pass).
    """
    require_file(path, "a file of structure factors")
    if path.stat().st_size > MAX_TEXT:
        raise Sorry(f"{path} is longer than {MAX_TEXT} bytes: no structure factors are")
    blocks = [(np.empty(0, dtype=np.int64), np.empty((0, 4)))]
    with path.open(encoding="latin-1") as stream:
        lines = _meaningful_lines(stream)
        while block := list(itertools.islice(lines, BLOCK)):
            blocks.append((np.array([number for number, _ in block]), _table(path, block)))
    numbers, values = (np.concatenate(columns) for columns in zip(*blocks))
    # one number for each index, in the indices' order, takes less memory than their rows
    whole = values[:, :3].astype(np.int64) + MAX_INDEX
    packed = (whole[:, 0] << 42) + (whole[:, 1] << 21) + whole[:, 2]
    del whole, blocks
    keys, which = np.unique(packed, return_inverse=True)
    amplitudes = np.empty(len(keys))
    amplitudes[which[::-1]] = values[::-1, 3]  # the first line of several stays
    again = amplitudes[which] != values[:, 3]
    if again.any():
        number = int(numbers[again.argmax()])
        with path.open(encoding="latin-1") as stream:
            line = next(line for n, line in _meaningful_lines(stream) if n == number)
        _complain(path, number, line, "has another F for an index of another line")
    part = (1 << 21) - 1
    indices = np.stack([keys >> 42, keys >> 21 & part, keys & part], axis=1) - MAX_INDEX
    return indices, amplitudes


def _table(path: Path, lines: list[tuple[int, str]]) -> np.ndarray:
    """h, k, l, F of numbered lines ``[n, 4]``; Sorry naming the first that is wrong."""
    for number, line in lines:
        if line.count(" ") != 3:
            _complain(path, number, line, "has not the four columns h k l F")
    try:
        values = np.array(" ".join(line for _, line in lines).split(), dtype=np.float64)
    except ValueError as error:
        for number, line in lines:
            if not all(_is_number(word) for word in line.split()):
                _complain(path, number, line, "has something that is not a number", error)
        raise
    values = values.reshape(-1, 4)
    for bad, what in (
        (~np.isfinite(values).all(1), "has a value that is not finite"),
        ((values[:, :3] != np.rint(values[:, :3])).any(1), "has an index that is not an integer"),
        ((np.abs(values[:, :3]) > MAX_INDEX).any(1), "has an index beyond a million"),
        (values[:, 3] < 0, "has a negative amplitude"),
    ):
        if bad.any():
            _complain(path, *lines[int(bad.argmax())], what)
    return values


def read_array(
    path: Path, kind: str, labels: list[str] | None, observation_type: str
) -> miller.array:
    """The one array of amplitudes, intensities or complex F that is meant, as the file has it.

    labels, observation_type: the PHIL parameters.  The array's unit cell or space group may be
    None, where the file does not say them.  Sorry if no array, or more than one, can be meant.
    """
    arrays = _arrays(path, kind, observation_type)
    real = [a for a in arrays if a.is_complex_array() or isinstance(a.data(), flex.double)]
    if labels:
        chosen = _with_labels(real, labels)
        wanted = f"with the labels {','.join(labels)}"
    else:
        chosen = [a for a in real if a.is_complex_array() or a.is_xray_data_array()]
        wanted = "known to be amplitudes or intensities"
        if not chosen and observation_type != "auto":
            chosen = real
    if len(chosen) == 1:
        return chosen[0]
    found = "; ".join(_describe(array) for array in (chosen or arrays)) or "nothing"
    if not chosen:
        raise Sorry(
            f"{path} has no array {wanted}. It has: {found}. Name one with "
            "structure_factors.labels, and what it is with structure_factors.observation_type."
        )
    raise Sorry(
        f"{path} has {len(chosen)} arrays {wanted}. Choose one with "
        f"structure_factors.labels=...: {found}."
    )


def with_symmetry(
    array: miller.array, space_group: sgtbx.space_group_info, unit_cell: uctbx.unit_cell
) -> miller.array:
    """The array with the crystal's symmetry where the file has none, each reflection once.

    Equivalent observations are merged (F or I, weighted as cctbx does), Friedel mates only if the
    array is not anomalous; systematically absent reflections are taken out.
    """
    info = array.info()
    group = array.space_group_info() or space_group
    cell = array.unit_cell()
    if cell is None:
        # A refined cell may break its own symmetry by a hair, which cctbx does not forgive.
        cell = group.group().average_unit_cell(unit_cell)
    complete = array.customized_copy(
        crystal_symmetry=crystal.symmetry(cell, space_group_info=group)
    )
    complete.set_observation_type(array)
    if complete.anomalous_flag() is None:
        complete = complete.auto_anomalous()
    if not complete.is_unique_set_under_symmetry():
        complete = complete.merge_equivalents().array().set_observation_type(array)
    return complete.remove_systematic_absences().set_observation_type(array).set_info(info)


def as_amplitudes(
    array: miller.array, observation_type: str, path: Path
) -> tuple[miller.array, str]:
    """|F| of an array and how it was obtained.

    Sorry for numbers whose meaning is unknown or contradicted by `observation_type`, negative
    amplitudes and values that are not finite.
    """
    label = array.info().label_string()
    if array.is_complex_array():
        if observation_type == "intensities":
            raise Sorry(f"{label} of {path} is complex: amplitudes and phases, not intensities.")
        return array.amplitudes(), "amplitudes of complex structure factors"
    said = None
    if array.is_xray_data_array():
        said = "intensities" if array.is_xray_intensity_array() else "amplitudes"
    if said is None and observation_type == "auto":
        raise Sorry(
            f"{path} does not say whether {label} are amplitudes or intensities: "
            "set structure_factors.observation_type."
        )
    if said is not None and observation_type not in ("auto", said):
        raise Sorry(
            f"{label} of {path} are {said}, but structure_factors.observation_type is "
            f"{observation_type}: leave it out, or choose other labels."
        )
    values = array.data().as_numpy_array()
    _refuse_values(array, ~np.isfinite(values), "not a finite number", path)
    if (said or observation_type) == "amplitudes":
        _refuse_values(array, values < 0, "a negative amplitude", path)
        return array.customized_copy(sigmas=None), "amplitudes"
    amplitudes = array.customized_copy(
        data=flex.double(np.sqrt(np.maximum(values, 0))), sigmas=None
    )
    negative = int((values < 0).sum())
    return (
        amplitudes.set_observation_type_xray_amplitude(),
        f"F = sqrt(I), {negative} negative intensities taken as 0",
    )


def _arrays(path: Path, kind: str, observation_type: str) -> list[miller.array]:
    """All Miller arrays of a file, merged under the symmetry that the file states."""
    try:
        if kind == "mtz":
            mtz_header.check(path)
            return iotbx.mtz.object(file_name=str(path)).as_miller_arrays()
        if kind == "cif":
            return iotbx.cif.reader(file_path=str(path)).as_miller_arrays()
        reader = any_reflection_file(str(path))
        # SHELX files do not say what they hold, and iotbx insists on knowing.
        shelx = reader.file_type() == "shelx_hklf"
        if not (shelx and observation_type == "auto"):
            arrays = reader.as_miller_arrays(
                assume_shelx_observation_type_is=observation_type if shelx else None
            )
    except (Sorry, *_READER_ERRORS) as error:
        raise Sorry(
            f"{path} cannot be read as a file of reflections: {one_line(error).rstrip('.')}."
        ) from error
    if reader.file_type() is None:
        raise Sorry(
            f"{path} is no file of reflections that can be read (.mtz, .cif, .sca, .hkl, XDS, "
            "SHELX, CNS; or text with the four columns h k l F), and no model (.pdb, .cif)."
        )
    if shelx and observation_type == "auto":
        raise Sorry(
            f"{path} is a SHELX file, which does not say whether it holds amplitudes or "
            "intensities: set structure_factors.observation_type."
        )
    return arrays


def _kind_of_cif(path: Path) -> str:
    """Whether a CIF holds reflections (which win if it holds both) or a model's atoms."""
    # cctbx's parser crashes on some that are cut short
    if not child.survives(lambda: iotbx.cif.reader(file_path=str(path))):
        raise Sorry(f"{path} is not a valid CIF: it is damaged or cut short.")
    try:
        blocks = iotbx.cif.reader(file_path=str(path)).model().values()
    except (Sorry, *_READER_ERRORS) as error:
        raise Sorry(f"{path} is not a valid CIF: {one_line(error).rstrip('.')}.") from error
    keys = {key for block in blocks for key in block}
    if keys & {"_refln.index_h", "_refln_index_h"}:
        return "cif"
    if keys & {"_atom_site.Cartn_x", "_atom_site.fract_x", "_atom_site_fract_x"}:
        return "cif model"
    raise Sorry(f"{path} is a CIF with neither reflections (_refln) nor atoms (_atom_site) in it.")


def _with_labels(arrays: list[miller.array], labels: list[str]) -> list[miller.array]:
    """The arrays that bear all of the labels; of several, one that bears no other."""
    wanted = {_short(word) for label in labels for word in label.split(",") if word}
    bearing = [a for a in arrays if wanted <= {_short(label) for label in a.info().labels}]
    exactly = [a for a in bearing if wanted == {_short(label) for label in a.info().labels}]
    return exactly if len(exactly) == 1 else bearing


def _short(label: str) -> str:
    """A label without a CIF's category, in small letters."""
    return re.sub(r"^_refln[._]", "", label).lower()


def _describe(array: miller.array) -> str:
    """A line on an array, for the user who has to choose."""
    kind = "complex" if array.is_complex_array() else str(array.observation_type() or "other")
    kind = kind.rsplit(".", 1)[-1].replace("xray_", "")
    return f"{array.info().label_string()} ({kind}, {array.size()} reflections)"


def _refuse_values(array: miller.array, bad: np.ndarray, what: str, path: Path) -> None:
    if bad.any():
        index = array.indices()[int(bad.argmax())]
        raise Sorry(
            f"{array.info().label_string()} of {path} has {what} at {index}, and at "
            f"{int(bad.sum()) - 1} other reflections: mend the file, or choose other labels."
        )


def _meaningful_lines(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Pairs of line number and line, without comments, blank lines and doubled blanks."""
    for number, line in enumerate(lines, 1):
        line = " ".join(line.split("#", 1)[0].split())
        if line:
            yield number, line


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _complain(
    path: Path, number: int, line: str, what: str, cause: Exception | None = None
) -> None:
    raise Sorry(
        f"Line {number} of {path}, '{line[:60]}', {what}: each line holds a reflection, "
        "three integers and its amplitude."
    ) from cause
