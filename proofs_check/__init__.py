"""Machine-checked proofs of the theory: certificates in integers and a verifier without a tolerance.

What is trusted is the standard-library part: `verifier`, and what it calls (`rational`, `assembler`,
`expressions`, `intervals`, `enumerations`, `evaluations`). What finds the certificates (`prove/`, with cvxpy,
SymPy and python-flint) and what searches for counterexamples (`museum/`) is not.

    python -m proofs_check verify | prove ID | mutate | museum
"""
