"""The crystal of nanoBragg.c's -cell, -mat and -misset: real-space vectors in its laboratory.

The order of the operations is nanoBragg.c's: where the edge of a cell fits a whole number of times
into -xtalsize, the last bit of its length decides whether there is a cell more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from libtbx.utils import Sorry
from scipy.spatial.transform import Rotation

from nanobragg_plugin.adapters.classic.settings import Settings
from nanobragg_plugin.constants import RTD
from nanobragg_plugin.ran1 import Ran1


@dataclass(frozen=True)
class Cell:
    """real [3, 3]: a, b, c in the rows, Angstrom; star_scale: how much longer than those of these
    vectors nanoBragg.c's own a*, b*, c* are (the `_star` shapes use them)."""

    real: np.ndarray
    star_scale: float


def cell_of(s: Settings, seed: int) -> Cell:
    """The crystal of a command line; seed: of a random misorientation."""
    if s.matrix is None and s.cell is None:
        raise Sorry("there is no crystal: give -mat FILE, or -cell with -misset")
    parameters = None if s.cell is None else _parameters(s.cell)
    if s.matrix is not None:
        # mosflm's matrix holds the wavelength
        reciprocal = _read_matrix(s.matrix) * (1e-10 / s.wavelength)
    else:
        reciprocal = _standard_setting(*parameters)
    return _real_space(_turned(reciprocal, _misset(s, seed)), parameters)


def lengths_of(real: np.ndarray) -> np.ndarray:
    """Lengths of the rows of real [3, 3], Angstrom, in m."""
    x, y, z = (real * 1e-10).T
    return np.sqrt(x * x + y * y + z * z)


def _parameters(cell: tuple[float, ...]) -> tuple[float, ...]:
    """a, b, c, Angstrom, alpha, beta, gamma, radians, of one to six numbers."""
    a, *rest = cell
    b, c = (rest + [a] * 2)[:2] if len(rest) < 2 else rest[:2]
    angles = [angle / RTD for angle in rest[2:]] + [math.pi / 2] * 3
    return (a, b, c, *angles[:3])


def _volume(a: float, b: float, c: float, *angles: float) -> float:
    half = sum(angles) / 2
    square = math.prod(math.sin(half - angle) for angle in (0.0, *angles))
    # a flat cell, as of three angles of 120, is one of no volume but for rounding
    if square < 1e-12 or max(angles) >= math.pi:
        cell = " ".join(f"{v:g}" for v in (a, b, c, *(angle * RTD for angle in angles)))
        raise Sorry(f"-cell {cell}: no cell has these angles")
    return 2 * a * b * c * math.sqrt(square)


def _standard_setting(a: float, b: float, c: float, *angles: float) -> np.ndarray:
    """Columns a*, b*, c*, 1/Angstrom: a* along x, b* in the xy plane.

    nanoBragg.c has sin(gamma*) where c*_z = c* V/(a b c sin gamma) is meant: the angles of a
    triclinic cell are not those asked for. That is kept, for its images are of these cells.
    """
    volume = _volume(a, b, c, *angles)
    sines, cosines = ([f(angle) for angle in angles] for f in (math.sin, math.cos))
    stars = np.array([b * c, c * a, a * b]) * sines * (1 / volume)
    cos_star = np.array(
        [cosines[(i + 1) % 3] * cosines[(i + 2) % 3] - cosines[i] for i in range(3)]
    ) / np.array([sines[(i + 1) % 3] * sines[(i + 2) % 3] for i in range(3)])
    sin_gamma_star = min(c * (1 / volume) / stars[0] / stars[1], 1.0)
    across = cos_star[0] - cos_star[1] * cos_star[2]
    return np.array(
        [
            [stars[0], stars[1] * cos_star[2], stars[2] * cos_star[1]],
            [0.0, stars[1] * sin_gamma_star, stars[2] * across / sin_gamma_star],
            [0.0, 0.0, stars[2] * volume / (a * b * c * sin_gamma_star)],
        ]
    )


def _turned(vectors: np.ndarray, angles: tuple[float, ...]) -> np.ndarray:
    """Columns turned about x, then y, then z, radians."""
    vectors = vectors.copy()
    for axis, angle in enumerate(angles):
        if angle:
            i, j = (axis + 1) % 3, (axis + 2) % 3
            cosine, sine = math.cos(angle), math.sin(angle)
            one, other = vectors[i].copy(), vectors[j].copy()
            vectors[i] = one * cosine + other * -sine
            vectors[j] = one * sine + other * cosine
    return vectors


def _real_space(reciprocal: np.ndarray, parameters: tuple[float, ...] | None) -> Cell:
    """a, b, c of columns a*, b*, c*; with -cell they get the lengths it asks for."""
    a_star, b_star, c_star = reciprocal.T
    products = np.array(
        [np.cross(b_star, c_star), np.cross(c_star, a_star), np.cross(a_star, b_star)]
    )
    reciprocal_volume = sum((a_star * products[0]).tolist())
    if abs(reciprocal_volume) < 1e-6 * np.prod(np.linalg.norm(reciprocal, axis=0)):
        raise Sorry("the matrix of -mat has no volume: its columns are a*, b*, c*")
    if parameters is None:
        return Cell(products * (1 / reciprocal_volume), 1.0)
    volume = _volume(*parameters)
    x, y, z = products.T
    factors = np.array(parameters[:3]) / volume / np.sqrt(x * x + y * y + z * z)
    real = factors[:, None] * products * (1 / (1 / volume))
    return Cell(real, abs(float(np.linalg.det(real))) / volume)


def _read_matrix(name: str) -> np.ndarray:
    """The first nine numbers of a mosflm matrix."""
    try:
        words = Path(name).read_text(encoding="latin-1").split()[:9]
    except OSError as error:
        raise Sorry(f"the matrix {name} cannot be read: {error.strerror}") from error
    try:
        matrix = np.array([float(word) for word in words])
    except ValueError as error:
        raise Sorry(f"{name} does not begin with the nine numbers of a matrix") from error
    if len(matrix) < 9 or not np.isfinite(matrix).all():
        raise Sorry(f"{name} does not begin with the nine numbers of a matrix")
    return matrix.reshape(3, 3)


def _misset(s: Settings, seed: int) -> tuple[float, ...]:
    """The turns of -misset about x, then y, then z, radians; of `random` those of one of all
    rotations that are equally likely (Shoemake, Graphics Gems III, 1992), where nanoBragg.c caps
    it at 90 radians."""
    if s.misset is None:
        return (0.0, 0.0, 0.0)
    if s.misset != "random":
        return s.misset
    draw = Ran1(seed)
    u1, u2, u3 = draw(), 2 * math.pi * draw(), 2 * math.pi * draw()
    inner, outer = math.sqrt(1 - u1), math.sqrt(u1)
    turn = Rotation.from_quat(
        [inner * math.sin(u2), inner * math.cos(u2), outer * math.sin(u3), outer * math.cos(u3)]
    )
    turns = tuple(turn.as_euler("xyz"))
    angles = " ".join(f"{x * RTD:f}" for x in turns)
    s.warnings.append(f"random orientation, the same as -misset {angles}")
    return turns
