"""Which delta a task needs, before any training."""

from deltatheory.advice.candidates import CANDIDATES, Candidate, in_each_block
from deltatheory.advice.ranking import advise
from deltatheory.advice.result import Advice, Decision, Estimate

__all__ = ["CANDIDATES", "Advice", "Candidate", "Decision", "Estimate", "advise", "in_each_block"]
