"""Does the symmetry of a file of structure factors agree with that of the crystal?

A file holds its amplitudes once per asymmetric unit; they are written out to P1 by the file's
own space group and then belong to the h, k, l of the crystal's cell.  That is right only if

* both cells are the same, in the same setting, within a tolerance; and
* every symmetry operation that the crystal claims is one that the file has.

The second is read as a crystallographer reads it.  Indexing and integration know less of the
symmetry than a solved structure does, so the crystal may claim less: a crystal in P1, or in
P 4 2 2 where the screw axes were not looked at, takes a file in P 43 21 2; a C-centred file serves
a crystal in the same cell said to be primitive.  A crystal that claims what the file denies (a
rotation or a mirror, a centring, a screw or glide of another kind) contradicts it.  The hand is
the exception: P 41 21 2 and P 43 21 2 have the same absences, programs that merge data cannot tell
one from the other, so the enantiomorph of the file's group agrees as well, with a remark.  So do
pairs like I 2 3 and I 21 3, whose operations are of the same kinds.
"""

from __future__ import annotations

from itertools import product

from cctbx import crystal, sgtbx, uctbx
from libtbx.utils import Sorry

# Reflections on which translations are compared: enough for axes and planes in any direction.
_PROBES = tuple(product(range(-4, 5), repeat=3))

_IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)


def require_same_cell(
    files: crystal.symmetry, crystals: crystal.symmetry, tolerance_percent: float, name: str
) -> None:
    """Sorry unless the cells agree: lengths within `tolerance_percent`, angles within as many
    degrees.

    The space groups serve only to see two settings of one lattice; the file's may be None.
    `name` is the file's, for the message.
    """
    if _similar(files.unit_cell(), crystals.unit_cell(), tolerance_percent):
        return
    mend = "give the file that belongs to this crystal, or raise cell_tolerance_percent"
    if _similar(_reduced(files), _reduced(crystals), tolerance_percent):
        mend = (
            "it is the same lattice in another setting, so reindex one of them (dials.reindex) "
            "until both have the same cell"
        )
    raise Sorry(
        f"The unit cell of {name}, {_cell(files.unit_cell())}, is not the crystal's, "
        f"{_cell(crystals.unit_cell())}, within {tolerance_percent:g} %: {mend}."
    )


def require_agreeing_group(
    file_group: sgtbx.space_group_info, crystal_group: sgtbx.space_group_info, name: str
) -> str | None:
    """Sorry where the crystal's space group contradicts the file's, by the rule above.

    Returns a remark for the log where they agree without being equal, else None.
    """
    file_sg, crystal_sg = file_group.group(), crystal_group.group()
    if file_sg == crystal_sg:
        return None
    both = f"the crystal's space group is {crystal_group}, the file's {file_group}"
    if _claims_hold(crystal_sg, file_sg, hand=1):
        return f"{both}, which was used"
    if _claims_hold(crystal_sg, file_sg, hand=-1):
        return f"{both}, its enantiomorph, which was used"
    raise Sorry(
        f"The space group of {name}, {file_group}, contradicts the crystal's, {crystal_group}, "
        "which has symmetry that the file denies: give the file that belongs to this crystal, "
        "or change the crystal's space group (dials.reindex space_group=...)."
    )


def _claims_hold(crystal_sg: sgtbx.space_group, file_sg: sgtbx.space_group, hand: int) -> bool:
    """Whether each operation of the crystal is found in the file's group (or its mirror image,
    hand = -1)."""
    translations = {operation.r().num(): _translation(operation) for operation in _all(file_sg)}
    centrings = [_translation(o) for o in _all(file_sg) if o.r().num() == _IDENTITY]
    allowed = [h for h in _PROBES if not any(_phase(h, t) for t in centrings)]
    for operation in _all(crystal_sg):
        rotation = operation.r().num()
        if rotation not in translations:
            return False
        invariant = [h for h in allowed if _turned(h, rotation) == h]
        mirrored = tuple(hand * t for t in translations[rotation])
        claimed = [_phase(h, _translation(operation)) for h in invariant]
        found = [_phase(h, mirrored) for h in invariant]
        # Where all that is claimed is 0 it is a plain rotation or mirror: no screw, no glide.
        if claimed != found and any(claimed):
            return False
    return True


def _phase(h: tuple, translation: tuple) -> int:
    """h.t modulo 1, in units of 1/144.

    For an h that a rotation leaves as it is this is what its translation does to the structure
    factor, whatever the origin: it must be 0 for F(h) not to vanish, and tells a screw or glide
    from a rotation or mirror, and 4_1 from 4_2 from 4_3.
    """
    return sum(a * b for a, b in zip(h, translation)) % 144


def _translation(operation: sgtbx.rt_mx) -> tuple[int, int, int]:
    """The translation of an operation in units of 1/144."""
    t = operation.t()
    return tuple(value * 144 // t.den() for value in t.num())


def _all(group: sgtbx.space_group) -> list:
    """Every operation of the group, the centring translations' included."""
    return [group(i) for i in range(group.order_z())]


def _turned(h: tuple, rotation: tuple) -> tuple[int, int, int]:
    """The row h times the rotation matrix (nine integers, row by row)."""
    return tuple(sum(h[i] * rotation[3 * i + j] for i in range(3)) for j in range(3))


def _similar(one: uctbx.unit_cell, other: uctbx.unit_cell, tolerance: float) -> bool:
    """Whether lengths agree within `tolerance` percent, angles within `tolerance` degrees."""
    pairs = list(zip(one.parameters(), other.parameters()))
    lengths = max(100 * abs(a / b - 1) for a, b in pairs[:3])
    return max(lengths, *(abs(a - b) for a, b in pairs[3:])) <= tolerance


def _reduced(symmetry: crystal.symmetry) -> uctbx.unit_cell:
    """Niggli's cell of the primitive lattice."""
    group = symmetry.space_group_info() or sgtbx.space_group_info("P 1")
    to_primitive = group.group().z2p_op()
    return symmetry.unit_cell().change_basis(to_primitive).niggli_cell()


def _cell(cell: uctbx.unit_cell) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in cell.parameters()) + ")"
