"""What is fuzzed: parsers of ours, each a function of bytes that raises nothing.

What a parser says of bad input, `Sorry` or ValueError, is taken here; anything else is a fault. So
is a result that is not what the parser's docstring says. `test_hostile_corpus.py` replays the
corpus in tests/data/fuzz, `fuzz_parsers.py` makes it grow.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import beam_sources, fdump, flex_pickle, reflection_file, smv_header
from nanobragg_plugin.adapters import spectrum as spectra
from nanobragg_plugin.format import header_models
from nanobragg_plugin.models import Beam

CORPUS = Path(__file__).resolve().parents[1] / "data" / "fuzz"
_FILE = Path(tempfile.gettempdir()) / f"fuzz-{os.getpid()}"


def _written(data: bytes) -> Path:
    _FILE.write_bytes(data)
    return _FILE


def _refused(function: Callable, *args: object) -> object:
    """What a function returns; None where it refuses, in one line, what it was given."""
    try:
        return function(*args)
    except Sorry as error:
        assert str(error) and "\n" not in str(error)
        return None
    finally:
        _FILE.unlink(missing_ok=True)


def flex_pickles(data: bytes) -> None:
    for kind, dtype in (("bool", bool), ("double", float)):
        try:
            arrays = flex_pickle.read(data, kind)
        except ValueError as error:
            assert "\n" not in str(error)
            continue
        assert all(array.dtype == dtype and array.size <= len(data) for array in arrays)


def reflections(data: bytes) -> None:
    """P1 text, whatever `kind_of_file` would say; iotbx's readers are not ours."""
    found = _refused(reflection_file.read_hkl_text, _written(data))
    if found is not None:
        indices, amplitudes = found
        assert indices.shape == (len(amplitudes), 3) and np.isfinite(amplitudes).all()
        assert len(np.unique(indices, axis=0)) == len(indices) and (amplitudes >= 0).all()


def dumps(data: bytes) -> None:
    found = _refused(fdump.read, _written(data))
    if found is not None:
        indices, amplitudes = found
        assert indices.shape == (len(amplitudes), 3) and np.isfinite(amplitudes).all()


def spectrum(data: bytes) -> None:
    found = _refused(spectra.read_spectrum, str(_written(data)), 5)
    if found is not None:
        lines = found[0]
        assert math.isclose(lines.photons.sum(), 1, rel_tol=1e-9)
        assert math.isfinite(lines.mean) and math.isfinite(lines.variance)
        assert (np.diff(lines.energies) >= 0).all() and len(lines.energies) <= 5


_BEAM = Beam(
    direction=torch.tensor([[[0.0, 0.0, -1.0]]], dtype=torch.float64),
    wavelength=torch.ones(1, 1, dtype=torch.float64),
    weight=torch.ones(1, dtype=torch.float64),
    polarization_axis=torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64),
    kahn_factor=torch.tensor(0.98, dtype=torch.float64),
    fluence=torch.tensor(1e24, dtype=torch.float64),
)


def sources(data: bytes) -> None:
    found = _refused(beam_sources.read_sources, str(_written(data)), _BEAM)
    if found is not None:
        positions, wavelengths, weights = found
        assert positions.shape == (len(weights), 3) and bool((weights > 0).all())
        assert bool(((wavelengths > 0) & (wavelengths < 1e3)).all())


def headers(data: bytes) -> None:
    """The packed models of a CBF or SMV header."""
    try:
        found = header_models.unpacked_text(data.decode("latin-1"))
    except ValueError as error:
        assert str(error)
        return
    assert isinstance(found, dict)


def smv(data: bytes) -> None:
    found = _refused(smv_header.read, _written(data))
    if found is not None:
        assert found.data.shape == (found.height, found.width)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "flex_pickle": flex_pickles,
    "reflections": reflections,
    "fdump": dumps,
    "spectrum": spectrum,
    "sources": sources,
    "headers": headers,
    "smv": smv,
}


def corpus(target: str) -> list[Path]:
    return sorted((CORPUS / target).glob("*"))


def mutations(whole: bytes, others: list[bytes], seed: int, count: int) -> Iterator[bytes]:
    """Damaged copies: truncated, with bytes changed, removed, doubled, or spliced with others."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield _damaged(whole, others, rng)


def _damaged(whole: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(0, len(data) + 1))
        length = int(rng.integers(1, 9))
        what = int(rng.integers(5))
        if what == 0:
            del data[at:]
        elif what == 1:
            data[at : at + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        elif what == 2:
            del data[at : at + length]
        elif what == 3:
            data[at:at] = data[at : at + length] * int(rng.integers(1, 20))
        else:
            other = others[int(rng.integers(len(others)))]
            data[at:] = other[int(rng.integers(0, len(other) + 1)) :]
    return bytes(data)
