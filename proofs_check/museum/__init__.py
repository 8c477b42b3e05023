"""Published or shipped claims that are false, each refuted by a search that starts from its statement alone.

A search draws small integer instances of the claim's hypotheses until one breaks its conclusion; what it
finds is then checked in exact rational or in interval arithmetic. No witness is stored.
"""

from __future__ import annotations

from proofs_check.museum import attention, control, lipschitz, optimization
from proofs_check.museum.false_claim import FalseClaim, Refutation

CLAIMS: dict[str, FalseClaim] = {
    **lipschitz.CLAIMS,
    **optimization.CLAIMS,
    **control.CLAIMS,
    **attention.CLAIMS,
}


def refute(name: str) -> Refutation:
    """Search for a counterexample to a claim and check it.

    Args:
        name: a key of `CLAIMS`.

    Raises:
        ValueError: for an unknown name, or if the search finds nothing.

    """
    if name not in CLAIMS:
        raise ValueError(f"name={name!r} is not in the museum; there are: {', '.join(CLAIMS)}")
    found = CLAIMS[name].search()
    if found is None:
        raise ValueError(f"the search for a counterexample to {name!r} found none")
    return found
