"""Which reflection of one table is which of another."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

#: Distance, in tolerances, between reflections with different labels.
APART = 4.0


def match(
    true: np.ndarray,
    other: np.ndarray,
    labels: tuple[np.ndarray, np.ndarray],
    tolerance: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs, as indices into `true` and `other`, that are each other's nearest.

    true [n, 3], other [m, 3]: fast, slow (pixels) and image; labels [n, k], [m, k]: whole numbers
    that must agree (panel, image file, h, k, l); tolerance [3]: semi-axes of the ellipsoid, in
    pixels and images, within which the partner must lie. Positions that are not finite have none.
    """
    places = [np.asarray(p, float).reshape(-1, 3) / tolerance for p in (true, other)]
    whole = [np.flatnonzero(np.isfinite(p).all(axis=1)) for p in places]
    if not (len(whole[0]) and len(whole[1])):
        return np.zeros(0, int), np.zeros(0, int)
    kinds = np.concatenate([label[use] for label, use in zip(labels, whole)])
    kind = np.unique(kinds, axis=0, return_inverse=True)[1].reshape(-1, 1) * APART
    points = [
        np.hstack((place[use], numbers))
        for place, use, numbers in zip(places, whole, np.split(kind, [len(whole[0])]))
    ]
    # a label's number times APART may be large: what is added to it keeps 1e-9 of a tolerance
    trees = [cKDTree(p) for p in points]
    distance, to_other = trees[1].query(points[0], distance_upper_bound=1.0)
    _, to_true = trees[0].query(points[1], distance_upper_bound=1.0)
    near = np.flatnonzero(np.isfinite(distance))
    mutual = near[to_true[to_other[near]] == near]
    return whole[0][mutual], whole[1][to_other[mutual]]
