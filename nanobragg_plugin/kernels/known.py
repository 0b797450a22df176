"""What is summed over at each sample, made once of the same vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nanobragg_plugin.kernels.incidence import Incidence
from nanobragg_plugin.kernels.lattice_sum import Terms, terms_of
from nanobragg_plugin.kernels.tree import Tree, tree_of


@dataclass
class _Entry:
    vectors: Tensor  # kept, so that its id stays its own
    terms: Terms | None = None
    tree: Tree | None = None
    leaves: list[Terms] | None = None


class KnownTerms:
    """Terms of an Incidence and real-space vectors [steps, domains, 3, 3], and their tree.

    Where gradients are wanted, terms are made anew each time: else the backward pass, which
    evaluates a batch again, would go another way than the forward pass.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple, _Entry] = {}

    def terms(self, incidence: Incidence, vectors: Tensor) -> Terms:
        """In the order of `terms_of`."""
        if torch.is_grad_enabled():
            return _terms(incidence, vectors)
        entry = self._entry(incidence, vectors)
        if entry.terms is None:
            entry.terms = _terms(incidence, vectors)
        return entry.terms

    def tree(self, incidence: Incidence, vectors: Tensor) -> Tree:
        """Their tree, which has no gradient."""
        entry = self._entry(incidence, vectors)
        if entry.tree is None:
            with torch.no_grad():
                entry.tree = tree_of(self.terms(incidence, vectors), incidence.s0_unit)
        return entry.tree

    def leaves(self, incidence: Incidence, vectors: Tensor) -> list[Terms]:
        """The terms leaf by leaf of their tree."""
        tree = self.tree(incidence, vectors)
        if torch.is_grad_enabled():
            return tree.leaves(self.terms(incidence, vectors))
        entry = self._entry(incidence, vectors)
        if entry.leaves is None:
            entry.leaves = tree.leaves(self.terms(incidence, vectors))
        return entry.leaves

    def _entry(self, incidence: Incidence, vectors: Tensor) -> _Entry:
        key = (id(vectors), incidence.sources, incidence.step)
        return self._entries.setdefault(key, _Entry(vectors))


def _terms(incidence: Incidence, vectors: Tensor) -> Terms:
    return terms_of(
        incidence.vectors_of(vectors), incidence.s0_unit, incidence.wavelength, incidence.weight
    )
