"""`python -m deltatheory` is the command `deltatheory`; `accelerate launch -m` needs a module."""

from deltatheory.cli import app

app(prog_name="deltatheory")
