"""Machine-checked proofs of the theory: certificates in integers and a verifier without a tolerance.

What is trusted is the standard-library part: `verifier`, and what it calls (`certificate`, `replay`,
`rational`, `assembler`, `expressions`, `intervals`, `enumerations`, `evaluations`). It imports nothing of
`deltatheory`, whose own exact arithmetic was written apart: a fault in one shows as a disagreement. What
finds the certificates (`prove/`, with cvxpy, SymPy and python-flint) and what searches for counterexamples
(`museum/`) is not trusted.

    python -m proofs_check verify | prove ID | mutate | museum

A certificate passes, in this order: `catalogue` (which prover a theorem has), a module of `prove/` (finds the
data), `certificate` (integers and a digest), `verifier` with what it calls (the verdict), `certificates/`
(kept if VERIFIED). A new one needs a prover in `prove/` and its line in `catalogue.PROVERS`; one that only
names a computation, a function and its entry in `enumerations` or `evaluations`.
"""
