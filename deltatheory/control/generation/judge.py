"""A judge of generated texts that knows nothing of the model: bags of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Judge"]


class Judge:
    """Logistic regression on the words and pairs of words of texts, weighted by how rare they are.

    Args:
        texts: to be trained on; none of those that a policy was made from.
        target: which of them are of the target.

    Raises:
        ValueError: where one of the kinds is missing, or no text has a word.
        ImportError: without `scikit-learn`.
    """

    def __init__(self, texts: Sequence[str], target: Sequence[bool]) -> None:
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
        except ImportError as error:
            raise ImportError(
                "a judge of texts needs scikit-learn: pip install 'deltatheory[report]'."
            ) from error
        if len(set(target)) < 2:
            raise ValueError(f"texts: the judge has {len(texts)} of one kind; give texts of both.")
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        self._model: Any = make_pipeline(words, LogisticRegression(C=10.0, class_weight="balanced"))
        self._model.fit(list(texts), np.array(target, dtype=bool))

    def on_target(self, texts: Sequence[str]) -> list[bool]:
        """Return which texts are more likely of the target than not."""
        return self._model.predict(list(texts)).tolist()

    def accuracy(self, texts: Sequence[str], target: Sequence[bool]) -> float:
        """Return the share of texts that it tells right."""
        return float(self._model.score(list(texts), np.array(target, dtype=bool)))
