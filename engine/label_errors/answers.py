"""Answers of language models as vectors: a wrong one is unlike those that inputs like its own have. No torch."""

import re

import numpy as np

from traklens.stores.store import Store

DIMENSIONS = 256
SEED = 12


def answer_space(store: Store) -> np.ndarray:
    """A unit vector for each training example's answer: float32 [n_train, 256].

    The cosine of two is about the share of words they have in common, rare words counting for more; the whole answer is one
    more word, so that equal answers are nearest. A random projection of the bag of words (Johnson and Lindenstrauss 1984).
    """
    found = [_terms(str(answer)) for answer in store.examples.words[: store.n_train]]
    terms = sorted({term for of_one in found for term in of_one})
    number = {term: place for place, term in enumerate(terms)}
    count = np.bincount([number[term] for of_one in found for term in of_one], minlength=len(terms))
    weight = np.log1p(store.n_train / np.maximum(count, 1))[:, None]
    vectors = weight * np.random.default_rng(SEED).standard_normal((len(terms), DIMENSIONS))
    space = np.stack([vectors[[number[term] for term in of_one]].sum(axis=0) for of_one in found])
    return (space / np.maximum(np.linalg.norm(space, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _terms(answer: str) -> set[str]:
    """The words of an answer, in lower case, and the answer itself."""
    said = " ".join(answer.casefold().split())
    return {*re.findall(r"\w+", said), f"= {said}"}
