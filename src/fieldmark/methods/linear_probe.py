"""Linear probes on frozen embeddings, with the interface of scikit-learn.

`LinearProbe` is the probe of bap.txt M.3.1: a linear layer, 30 epochs of AdamW at 5e-4,
cross-entropy weighted inversely to class frequency. The paper leaves open the batch (128 here), the
weight decay (0.01, AdamW's own) and the start. It starts from zero here: the problem is convex, and
after a few hundred steps of at most 5e-4 each a random start of the usual size would still weigh as
much as what was learned.

`ConvexProbe` solves the same problem with an L2 penalty to the end, by scikit-learn's L-BFGS. It is
fast and has no seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.nn import functional

from fieldmark.core.errors import InputError
from fieldmark.core.json_text import parse_json
from fieldmark.core.sealed import (
    KEY,
    SEAL,
    judge,
    read_sealed_json,
    sealing,
    write_sealed_json,
)
from fieldmark.core.seeds import generator
from fieldmark.methods.head import HeadData, HeadKind

Floats = NDArray[np.float64]
ClassWeight = Literal["balanced"] | None
WEIGHTS, RECORD = "probe.safetensors", "probe.json"


class _Examples(NamedTuple):
    """Checked training data: values (n,D), class codes (n,), weights (n,) above 0."""

    values: Floats
    codes: NDArray[np.int64]
    weights: Floats


# scikit-learn has no types, and its checks and `clone` want its base classes.
class LinearHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What both probes do once they have `coef_` (C,D), `intercept_` (C,) and `classes_` (C,)."""

    name = ""
    coef_: Floats
    intercept_: Floats
    classes_: NDArray[Any]

    def _check(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> _Examples:
        values, target = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(target)
        weight = _check_weights(sample_weight, len(values))
        kept = weight > 0
        self.classes_, codes = np.unique(target[kept], return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"a probe needs examples of at least 2 classes, got {len(self.classes_)} class"
            )
        return _Examples(values[kept], codes, weight[kept])

    def _scores(self, X: ArrayLike) -> Floats:
        check_is_fitted(self)
        values = validate_data(self, X, reset=False, dtype=np.float64)
        return np.asarray(values @ self.coef_.T + self.intercept_)

    def decision_function(self, X: ArrayLike) -> Floats:
        """Return logits (n,C), or with two classes (n,) their difference, second minus first."""
        scores = self._scores(X)
        return scores if len(self.classes_) > 2 else scores[:, 1] - scores[:, 0]

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Return class probabilities (n,C) in the order of `classes_`."""
        scores = self._scores(X)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(scores / scores.sum(axis=1, keepdims=True))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each embedding: (n,)."""
        best = self._scores(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def describe(self) -> dict[str, object]:
        """Return which probe this is and how it is set, as JSON values for a record."""
        return {"head": self.name, **self.get_params()}


def _check_weights(sample_weight: ArrayLike | None, count: int) -> Floats:
    if sample_weight is None:
        return np.ones(count)
    weight = np.asarray(sample_weight, dtype=np.float64)
    weight = np.full(count, float(weight)) if weight.ndim == 0 else weight
    if weight.shape != (count,):
        raise ValueError(f"sample_weight has shape {weight.shape}, expected ({count},)")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError("sample_weight must be finite and not negative")
    if not weight.any():
        raise ValueError("every sample_weight is zero")
    return weight


def _weigh_classes(examples: _Examples, class_weight: ClassWeight) -> Floats:
    """Multiply each example's weight by n / (C n_c) where classes are to count alike."""
    if class_weight is None:
        return examples.weights
    if class_weight != "balanced":
        raise ValueError(f"class_weight must be 'balanced' or None, got {class_weight!r}")
    sums = np.bincount(examples.codes, weights=examples.weights)
    return np.asarray(examples.weights * (sums.sum() / (len(sums) * sums))[examples.codes])


class LinearProbe(LinearHead):
    """The linear probe of bap.txt M.3.1, trained in steps.

    Args:
        epochs: passes over the data.
        learning_rate: of AdamW.
        batch_size: examples a step.
        weight_decay: of AdamW, on weights and intercepts.
        class_weight: `balanced` weighs classes inversely to their frequency; None weighs all alike.
        random_state: seed of the order of examples, 0 or more.

    Attributes:
        coef_: (C,D) weights.
        intercept_: (C,) intercepts.
        classes_: (C,) labels, ascending.

    Example:
        >>> X = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> LinearProbe().fit(X, [0, 0, 1, 1]).predict(X).tolist()
        [0, 0, 1, 1]
    """

    name = "linear-probe"

    def __init__(
        self,
        *,
        epochs: int = 30,
        learning_rate: float = 5e-4,
        batch_size: int = 128,
        weight_decay: float = 0.01,
        class_weight: ClassWeight = "balanced",
        random_state: int = 0,
    ) -> None:
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> LinearProbe:
        """Train on embeddings (n,D) and labels (n,).

        Args:
            X: embeddings, used in float32.
            y: labels.
            sample_weight: (n,) not negative, multiplied with the class weights; 0 leaves out.

        Raises:
            ValueError: bad data, or fewer than two classes.
        """
        examples = self._check(X, y, sample_weight)
        values = torch.from_numpy(examples.values).float()
        codes = torch.from_numpy(examples.codes)
        weights = torch.from_numpy(_weigh_classes(examples, self.class_weight)).float()
        shape = (len(self.classes_), values.shape[1])
        coef, intercept = torch.zeros(shape), torch.zeros(shape[0])
        parameters = [coef.requires_grad_(), intercept.requires_grad_()]
        optimiser = torch.optim.AdamW(
            parameters, lr=self.learning_rate, weight_decay=self.weight_decay
        )
        random = generator(self.random_state, "linear-probe")
        for _ in range(self.epochs):
            order = torch.from_numpy(random.permutation(len(values)))
            for batch in order.split(self.batch_size):
                optimiser.zero_grad()
                logits = functional.linear(values[batch], coef, intercept)
                _mean_loss(logits, codes[batch], weights[batch]).backward()
                optimiser.step()
        self.coef_ = coef.detach().double().numpy()
        self.intercept_ = intercept.detach().double().numpy()
        return self


def _mean_loss(logits: Tensor, codes: Tensor, weights: Tensor) -> Tensor:
    losses = functional.cross_entropy(logits, codes, reduction="none")
    return (losses * weights).sum() / weights.sum()


class ConvexProbe(LinearHead):
    """Logistic regression with an L2 penalty, solved to the end: no steps, no seed.

    Args:
        C: inverse strength of the penalty, as scikit-learn has it: the loss is
            |w|^2 / 2 + C * the weighted sum of cross-entropies.
        class_weight: `balanced` weighs classes inversely to their frequency; None weighs all alike.
        max_iter: most iterations of L-BFGS.

    Attributes:
        coef_: (C,D) weights; with two classes those of the second are minus those of the first.
        intercept_: (C,) intercepts.
        classes_: (C,) labels, ascending.
        n_iter_: iterations that it took.

    Example:
        >>> X = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> ConvexProbe().fit(X, [0, 0, 1, 1]).predict(X).tolist()
        [0, 0, 1, 1]
    """

    name = "convex-probe"

    def __init__(
        self, *, C: float = 1.0, class_weight: ClassWeight = "balanced", max_iter: int = 1000
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.max_iter = max_iter

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> ConvexProbe:
        """Solve on embeddings (n,D) and labels (n,).

        Args:
            X: embeddings.
            y: labels.
            sample_weight: (n,) not negative, multiplied with the class weights; 0 leaves out.

        Raises:
            ValueError: bad data, or fewer than two classes.
        """
        examples = self._check(X, y, sample_weight)
        solver = LogisticRegression(C=self.C, max_iter=self.max_iter, tol=1e-6)
        weights = _weigh_classes(examples, self.class_weight)
        solver.fit(examples.values, examples.codes, sample_weight=weights)
        coef, intercept = solver.coef_, solver.intercept_
        if len(coef) == 1:
            coef, intercept = np.vstack([-coef, coef]) / 2, np.append(-intercept, intercept) / 2
        self.coef_, self.intercept_ = coef, intercept
        self.n_iter_ = int(solver.n_iter_.max())
        return self


PROBES: dict[str, type[LinearProbe] | type[ConvexProbe]] = {
    probe.name: probe for probe in (LinearProbe, ConvexProbe)
}


def save_probe(probe: LinearProbe | ConvexProbe, folder: Path) -> None:
    """Write `probe.safetensors` (coef, intercept) and, last, `probe.json`.

    Raises:
        NotFittedError: the probe has not been fitted.
        FieldmarkError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> probe = ConvexProbe().fit([[0.0], [1.0]], ["cat", "dog"])
        >>> with tempfile.TemporaryDirectory() as name:
        ...     save_probe(probe, Path(name))
        ...     load_probe(Path(name)).predict([[0.9]]).tolist()
        ['dog']
    """
    check_is_fitted(probe)
    tensors = {"coef": probe.coef_, "intercept": probe.intercept_}
    with sealing(folder / WEIGHTS) as part:
        save_file(tensors, part, metadata=dict(SEAL))
    write_sealed_json(
        folder / RECORD,
        {"head": probe.name, "params": probe.get_params(), "classes": probe.classes_.tolist()},
    )


_UNFIT = (ValueError, KeyError, TypeError, AttributeError, SafetensorError)


def load_probe(folder: Path) -> LinearProbe | ConvexProbe:
    """Read a probe that `save_probe` wrote; nothing in it is executed.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        text = (folder / RECORD).read_text(encoding="utf-8")
        record = read_sealed_json(folder / RECORD) if KEY in text else parse_json(text)
        if judge(folder / WEIGHTS) == "damaged":
            raise ValueError("its checksum does not fit its bytes")
        tensors = load_file(folder / WEIGHTS)
        probe = PROBES[record["head"]](**record["params"])
        probe.classes_ = np.array(record["classes"])
        probe.coef_, probe.intercept_ = tensors["coef"], tensors["intercept"]
        rows = len(probe.coef_)
        if probe.classes_.shape != (rows,) or probe.intercept_.shape != (rows,) or rows < 2:
            raise ValueError("its classes are not those of its weights")
    except (InputError, OSError, OverflowError, *_UNFIT) as error:
        raise InputError(
            f"holds no whole probe ({RECORD} and {WEIGHTS})", where=folder, mend="save it again"
        ) from error
    probe.n_features_in_ = probe.coef_.shape[1]
    return probe


def _make_linear(data: HeadData) -> LinearProbe:
    assert data.train is not None
    probe = LinearProbe(**{"random_state": data.seed, **data.settings})
    return probe.fit(data.train.embeddings, data.train.labels)


def _make_convex(data: HeadData) -> ConvexProbe:
    assert data.train is not None
    return ConvexProbe().fit(data.train.embeddings, data.train.labels)


HEAD = HeadKind(
    name="linear-probe",
    make=_make_linear,
    needs=frozenset({"train"}),
    seeded=True,
    source="bap.txt M.3.1",
)
CONVEX_HEAD = HeadKind(
    name="convex-probe", make=_make_convex, needs=frozenset({"train"}), seeded=False
)
