"""Studies and benchmarks: what was run, on what, and what came out."""
