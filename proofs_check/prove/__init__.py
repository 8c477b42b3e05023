"""Finding certificates: solvers in floating point, then rational numbers; nothing here is trusted."""
