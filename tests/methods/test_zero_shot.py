"""Zero-shot classification against plain cosine similarity."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from fieldmark.core.errors import UsageError
from fieldmark.methods.zero_shot import ZeroShotClassifier
from fieldmark.models.prompts import ensemble_prompts
from fieldmark.testing import FakeEncoder


def test_scores_are_cosines():
    random = np.random.default_rng(0)
    embeddings, prototypes = random.normal(size=(20, 7)), 3 * random.normal(size=(4, 7))
    head = ZeroShotClassifier(prototypes)
    scores = head.decision_function(embeddings)
    assert scores == pytest.approx(cosine_similarity(embeddings, prototypes), abs=1e-12)
    assert head.predict(embeddings).tolist() == scores.argmax(axis=1).tolist()


def test_prompts_name_the_colour():
    names = ["red", "green", "blue"]
    head = ZeroShotClassifier(ensemble_prompts(FakeEncoder(), names, ["{}", "a {} thing"]))
    images = np.array([[0.9, 0.1, 0, 0, 0, 0.3], [0, 0.2, 0.9, 0, 0, 0]])
    assert head.predict(images).tolist() == [0, 2]
    assert head.describe() == {"head": "zero-shot", "classes": 3}


def test_a_zero_embedding_scores_zero():
    assert ZeroShotClassifier(np.eye(2)).decision_function([[0.0, 0.0]]).tolist() == [[0, 0]]


@pytest.mark.parametrize("prototypes", [[[0.0, 0.0], [1, 0]], [[np.nan, 1.0]], [1.0, 2.0], []])
def test_bad_prototypes_are_refused(prototypes):
    with pytest.raises(UsageError, match="prototype"):
        ZeroShotClassifier(prototypes)


def test_embeddings_of_another_encoder_are_refused():
    with pytest.raises(UsageError, match=r"\(1, 3\) do not fit prototypes of shape \(2, 2\)"):
        ZeroShotClassifier(np.eye(2)).predict([[1.0, 0, 0]])
