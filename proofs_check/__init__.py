"""Machine-checked proofs of the theory: certificates in integers and a verifier without a tolerance.

What is trusted is the standard-library part, about 2,700 lines in all, and Python itself: `verifier` and what
it calls (`inequalities`, `replay`), the registry of claims (`claims`), what builds their objects from
definitions (`assembler`, `identities`, `instances`, `enumerations`, `evaluations`), what reads and computes
(`certificate`, `expressions`, `rational`, `intervals`). It imports nothing of `deltatheory`, whose own exact
arithmetic was written apart: a fault in one shows as a disagreement. What finds the certificates (`prove/`,
with cvxpy, SymPy and python-flint) and what searches for counterexamples (`museum/`) is not trusted.

    python -m proofs_check verify | prove ID | mutate | museum

A certificate passes, in this order: `catalogue` (which prover a theorem has), a module of `prove/` (finds the
data), `certificate` (integers and a digest), `claims` (which claim of which theorem it may prove), `verifier`
with what it calls (the verdict), `certificates/` (kept if VERIFIED). A new one needs its line in `claims`, an
object in the module of its kind, and a prover in `prove/` with its line in `catalogue.PROVERS`; one that only
names a computation needs no prover.
"""
