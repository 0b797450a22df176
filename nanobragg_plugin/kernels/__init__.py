"""Kernels: the same sum over samples, written three ways (reference, dense, sparse)."""
