"""What few stored bits, or a prior, say of unseen data (T18, T19): probabilities are summed exactly.

The codes here are independent of each other, each with 0/1 losses of its own; that is a special case in which
the probability of a failure can be written down.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from deltatheory.theorems.evidence import ProofStatus, holds_on
from deltatheory.theorems.exact import one_like
from deltatheory.theorems.instances import Instance, Sampler, with_corner, with_entries
from deltatheory.theorems.intervals import log, sqrt
from deltatheory.theorems.theorem import Hypothesis, Mutant, Theorem, register

F = Fraction


def _codes(seed: int) -> Instance:
    """Return 2^bits codes with these risks, n samples, and the allowed failure probability."""
    rng = np.random.default_rng(seed)
    bits = int(rng.integers(0, 4))
    risks = [F(int(k), 10) for k in rng.integers(1, 10, 2**bits)]
    x = {"n": int(rng.integers(4, 25)), "bits": bits, "risks": risks, "eta": F(int(rng.integers(1, 6)), 20)}
    return x | {"independent": True, "range": F(1), "prior": "fixed"}


def _coins(seed: int, codes: int = 1) -> Instance:
    x = _codes(0) | {"n": 20 + seed, "bits": int(math.log2(codes)), "risks": [F(1, 2)] * codes}
    return x | {"eta": F(1, 10)}


def _failure(x: Instance, fails: Callable[[Any, Any], bool]) -> Any:
    """Return P(some code fails), where `fails(risk, mean loss)` says when one does.

    Raises:
        ValueError: for a risk that is no probability of a loss.
    """
    n, none = x["n"], one_like(x["eta"])
    for risk, codes in Counter(x["risks"]).items():
        if not 0 <= risk <= 1:
            raise ValueError(f"risk={risk}: must be between 0 and 1.")
        if x["independent"]:
            counts = [(k, math.comb(n, k) * risk**k * (1 - risk) ** (n - k)) for k in range(n + 1)]
        else:
            counts = [(0, 1 - risk), (n, risk)]  # one sample, n times
        one = one_like(risk)
        none = none * sum(p for k, p in counts if not fails(risk, one * k / n)) ** codes
    return 1 - none


def _independent(violator: Sampler) -> Hypothesis:
    statement = "the samples, at least one, are independent"
    return Hypothesis("i.i.d.", statement, lambda x: x["independent"] and x["n"] >= 1, violator)


# ---- T18: Occam ----


def _occam(x: Instance, count: int = 2) -> tuple[Any, Any]:
    one = one_like(x["eta"])
    margin = sqrt((x["bits"] * log(2 * one) - log(x["eta"])) / (count * x["n"]))
    return _failure(x, lambda risk, mean: not x["range"] * (risk - mean) <= margin), x["eta"]


def _one_rare_loss(seed: int) -> Instance:
    """Return one code of a small risk and one sample: it fails unless the loss is seen, and η is near 1."""
    return _codes(0) | {"n": 1, "bits": 0, "risks": [F(1, 100)], "eta": F(99981, 100000)}


def _enumerate_t18() -> bool:
    cases = (
        {"n": n, "bits": bits, "risks": [F(r, 20)] * 2**bits, "eta": F(1, eta)}
        for n in (5, 12, 30)
        for bits in range(4)
        for r in (1, 5, 10, 15, 19)
        for eta in (2, 5, 20)
    )
    return holds_on(_occam, (_codes(0) | case for case in cases))


T18 = register(
    Theorem(
        id="T18",
        name="Occam bound for stored bits",
        latex=r"P\big(\exists\delta:R(\delta)>\hat R(\delta)+\sqrt{(b\ln2+\ln\tfrac1\eta)/(2n)}\big)\le\eta",
        words="a delta that is stored in b bits (d coordinates of some bits each) generalises with a margin "
        "that counts these bits; the left side is exact for independent codes",
        kind="upper",
        entries={
            "n": "number of samples",
            "bits": "b",
            "risks": "risk of every code",
            "eta": "allowed probability of a failure",
            "independent": "whether the samples are",
            "range": "the loss is in [0, range]",
        },
        sides=_occam,
        sampler=with_corner(_codes, _one_rare_loss),
        hypotheses=(
            Hypothesis(
                "bits counted",
                "at most $2^b$ codes, fixed before the data: a seed chosen afterwards costs its bits",
                lambda x: len(x["risks"]) <= 2 ** x["bits"],
                with_entries(lambda seed: _coins(seed, 64), bits=0),
            ),
            _independent(with_entries(_coins, independent=False)),
            Hypothesis(
                "bounded loss",
                "the loss is in $[0,1]$",
                lambda x: 0 <= x["range"] <= 1,
                with_entries(_coins, range=F(5)),
            ),
        ),
        mutant=Mutant("8n in place of 2n", lambda x: _occam(x, 8), _coins),
        closest=_one_rare_loss,
        reach=0.99,
        proof="Hoeffding for each code, union over all codes.",
        source="classical (Blumer et al. 1987)",
        certificates=("hoeffding",),
        status=ProofStatus.enumerated("180 binomial cases, n <= 30, up to 8 codes"),
        exact_check=_enumerate_t18,
    )
)


# ---- T19: PAC-Bayes-kl ----


def _moment(x: Instance) -> Any:
    """Return E exp(n kl(mean || p)), where the losses have mean q (it should be p)."""
    n, p, q = x["n"], x["p"], x["q"]
    counts = range(n + 1) if x["independent"] else (0, n)
    total = 0 * p
    for k in counts:
        chance = math.comb(n, k) * q**k * (1 - q) ** (n - k)
        if not x["independent"]:
            chance = q if k else 1 - q
        mean = one_like(p) * k / n
        total = total + chance * (mean / p) ** k * ((1 - mean) / (1 - p)) ** (n - k)
    return total


def _t19a(x: Instance):
    return _moment(x) ** 2, 4 * x["n"] * one_like(x["p"])


def _losses(seed: int) -> Instance:
    rng = np.random.default_rng(seed)
    p = F(int(rng.integers(1, 10)), 10)
    return {"n": int(rng.integers(1, 40)), "p": p, "q": p, "independent": True}


def _xi(n: int) -> int:
    """Return n^n ξ(n) = Σ_k C(n, k) k^k (n - k)^{n-k}."""
    return sum(math.comb(n, k) * k**k * (n - k) ** (n - k) for k in range(n + 1))


def _enumerate_t19a() -> bool:
    return all(_xi(n) ** 2 <= 4 * n * n ** (2 * n) for n in range(1, 201))


T19a = register(
    Theorem(
        id="T19a",
        name="Maurer's moment",
        latex=r"E\,e^{n\,\mathrm{kl}(\hat p\|p)}=\sum_k\tbinom nk(\tfrac kn)^k(1-\tfrac kn)^{n-k}\le2\sqrt n",
        words="the exponential moment behind PAC-Bayes does not depend on p for 0/1 losses, and is at most "
        "twice the root of n; compared squared, so without roots",
        kind="tight",
        entries={
            "n": "number of samples",
            "p": "the mean that kl is taken to",
            "q": "mean of the losses",
            "independent": "whether the samples are",
        },
        sides=_t19a,
        sampler=_losses,
        hypotheses=(
            _independent(with_entries(_losses, n=5, independent=False)),
            Hypothesis(
                "own mean",
                "$p$ is the mean of the losses",
                lambda x: x["p"] == x["q"],
                with_entries(_losses, n=10, p=F(1, 10), q=F(1, 2)),
            ),
        ),
        mutant=Mutant(
            "below 2 sqrt(n) by 1e-9",
            lambda x: (_t19a(x)[0], _t19a(x)[1] * (1 - F(1, 10**9))),
            with_entries(_losses, n=1),
        ),
        extremal=with_entries(_losses, n=1),
        proof="The powers of p cancel; Maurer's estimate of ξ.",
        source="Maurer 2004",
        certificates=("maurer",),
        status=ProofStatus.enumerated("n <= 200, in integers"),
        exact_check=_enumerate_t19a,
    )
)


def _kl(q: Any, p: Any) -> Any:
    total = 0 * p
    for a, b in ((q, p), (1 - q, 1 - p)):
        if a > 0:
            total = total + a * log(a / b)
    return total


def _t19b(x: Instance, roots: int = 2):
    """Return P(some code has kl(mean || risk) above the bound), for point posteriors."""
    one = one_like(x["eta"])
    divergence = log(one * len(x["risks"])) if x["prior"] == "fixed" else 0 * one
    budget = (divergence + log(one * roots * sqrt_floor(x["n"]) / x["eta"])) / x["n"]
    return _failure(x, lambda risk, mean: not _kl(mean, risk) <= budget), x["eta"]


def sqrt_floor(n: int) -> Fraction:
    """Return a fraction just below the root of n: it makes the bound a little smaller, never larger."""
    return Fraction(math.isqrt(n * 10**24), 10**12)


def _two_fair_samples(seed: int) -> Instance:
    """Return one code of risk 1/2 and two samples: it fails unless they differ, with η just above 1/√2."""
    return _codes(0) | {"n": 2, "risks": [F(1, 2)], "eta": F(70711, 100000)}


def _enumerate_t19b() -> bool:
    cases = (
        {"n": n, "bits": bits, "risks": [F(r, 20)] * 2**bits, "eta": F(1, eta)}
        for n in (5, 12, 30)
        for bits in (0, 2)
        for r in (1, 5, 10, 15)
        for eta in (2, 20)
    )
    return holds_on(_t19b, (_codes(0) | case for case in cases))


T19b = register(
    Theorem(
        id="T19b",
        name="PAC-Bayes-kl",
        latex=r"P\big(\exists Q:\mathrm{kl}(\hat R(Q)\|R(Q))>(\mathrm{KL}(Q\|\Pi)"
        r"+\ln\tfrac{2\sqrt n}\eta)/n\big)\le\eta",
        words="all posteriors at once, charged their divergence from a prior that the data did not choose; "
        "evaluated for point posteriors under a uniform prior",
        kind="upper",
        entries={
            "n": "number of samples",
            "risks": "risk of every code",
            "eta": "allowed probability of a failure",
            "independent": "whether the samples are",
            "prior": '"fixed" before the data, or another word',
        },
        sides=_t19b,
        sampler=with_corner(_codes, _two_fair_samples),
        hypotheses=(
            Hypothesis(
                "prior before data",
                r"$\Pi$ does not depend on the data",
                lambda x: x["prior"] == "fixed",
                with_entries(lambda seed: _coins(seed, 256), prior="the best code"),
            ),
            _independent(with_entries(_coins, independent=False)),
        ),
        mutant=Mutant(
            "the logarithm of sqrt(n)/eta is left out",
            lambda x: (_failure(x, lambda risk, mean: not _kl(mean, risk) <= 0 * risk), x["eta"]),
            _coins,
        ),
        closest=_two_fair_samples,
        reach=0.7071,  # ξ(2) = 5/2 is charged as 2√2, and Markov's inequality is not attained
        proof="Change of measure (Donsker-Varadhan), T19a, Markov.",
        source="Maurer 2004; Seeger 2002",
        status=ProofStatus.enumerated("48 binomial cases with point posteriors, n <= 30"),
        exact_check=_enumerate_t19b,
    )
)
