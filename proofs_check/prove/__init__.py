"""Finding certificates: solvers in floating point, then rational numbers; nothing here is trusted.

A prover is a function without arguments that yields what a theorem's certificates may hold: the name of a
certificate, its kind, and candidates for its data, of which the first that the verifier accepts is kept.
`proofs_check.catalogue` says which provers a theorem has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

Found = Iterator[tuple[str, str, Iterable[dict]]]  # (name, kind, candidates for the data)
Prover = Callable[[], Found]
