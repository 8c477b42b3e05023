"""Which delta a task needs, before any training."""

from deltatheory.advice.ranking import CANDIDATES, Advice, Candidate, Estimate, advise

__all__ = ["CANDIDATES", "Advice", "Candidate", "Estimate", "advise"]
