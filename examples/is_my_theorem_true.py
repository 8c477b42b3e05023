"""Is my theorem true? A bound of one's own: refuted by an exact instance, mended, and tightened.

    python examples/is_my_theorem_true.py

The claim: the LoRA update B A of rank r is no larger than its factors say, ‖B A‖² ≤ c ‖B‖² ‖A‖².
"""

from fractions import Fraction

from deltatheory.testing import check, claim, combine, falsify, matrices

ROWS, RANK, COLUMNS = 2, 2, 3


def bound(c):
    """Return the claim with the constant c; its sides run on fractions, so that violations are exact."""

    def sides(x):
        return ((x["B"] @ x["A"]) ** 2).sum(), c * (x["B"] ** 2).sum() * (x["A"] ** 2).sum()

    return claim(f"c = {c}", sides, combine(B=matrices(ROWS, RANK), A=matrices(RANK, COLUMNS)))


def main(*, evaluations=2000, examples=50):
    """Refute the claim with c = 1/2, hold it with c = 1, and see that no c below 1 will do."""
    hopeful = falsify(bound(Fraction(1, 2)), evaluations=evaluations)
    print(hopeful)
    print(f"  B =\n{hopeful.witness['B']}\n  A =\n{hopeful.witness['A']}")

    mended = check(bound(1), examples=examples)
    print(mended)

    # The same search, a thousandth below: if it is refuted too, 1 cannot be improved on.
    tighter = falsify(bound(Fraction(999, 1000)), evaluations=evaluations)
    print(tighter)
    return hopeful, mended, tighter


if __name__ == "__main__":
    main()
