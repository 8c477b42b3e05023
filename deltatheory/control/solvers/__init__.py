"""Solvers of optimal-control problems: in the space of δ, over the layers, and for small systems."""
