"""Automatic Feature Reweighting: the last layer retrained on examples that ERM finds hard.

Qiu et al. 2023, section 4; bap.txt M.2. Each example of a held-out fifth of the training data
weighs exp(-gamma p) with p the probability that the ERM head gives its class; gradient descent on
all of them starts from that head and may be held near it. Group labels are read on validation data
alone, to choose gamma and lambda; all of them are solved at once, as one tensor. What the paper
leaves open:

- Classes are balanced, as in the authors' code (`class_balanced`).
- BAP names no lambda: (0,) here. The authors search {0, 0.1, 0.2, 0.3} on Waterbirds.
- Of the 100 iterations of BAP the best by validation is kept, as in the authors' code
  (`keep_best_step`); BAP does not say that it is the last.
- The authors' learning rate and clipping go with features whose coordinates are near 1. On unit
  embeddings 100 such steps would hardly move the head, so the embeddings are divided by the root
  mean square of their coordinates, one number, which is folded back into the head
  (`feature_scale`).
- Of settings with the same worst-group accuracy the first wins, gammas outermost.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.methods.dfr import check_groups
from fieldmark.methods.head import Features, HeadData, HeadKind, hold_out, require_groups
from fieldmark.methods.linear_probe import LinearHead, LinearProbe

Floats = NDArray[np.float64]
GAMMAS = (0.0, 1.0, 3.0, 6.0, 10.0, 20.0)
HELD_OUT = 0.2


@runtime_checkable
class LinearLayer(Protocol):
    """A fitted linear head: `coef_` (C,D), `intercept_` (C,), `classes_` (C,)."""

    coef_: Floats
    intercept_: Floats
    classes_: NDArray[np.int64]


class Layers(NamedTuple):
    """S linear layers side by side: weights (S,C,D) and biases (S,C)."""

    weights: Tensor
    biases: Tensor


class Stage(NamedTuple):
    """What S layers are trained on.

    Attributes:
        values: (n,D) embeddings.
        targets: (n,C) one-hot classes.
        weights: (S,n) weights of the examples, of sum 1.
        lambdas: (S,) pulls to the one layer `start`.
    """

    values: Tensor
    targets: Tensor
    weights: Tensor
    lambdas: Tensor
    start: Layers


class Validation(NamedTuple):
    """What chooses: values (n,D), class codes (n,), one-hot groups (n,G), group sizes (G,1)."""

    values: Tensor
    codes: Tensor
    members: Tensor
    sizes: Tensor


class _Outcome(NamedTuple):
    """The kept layers, and of each its worst-group accuracy (S,) and its step (S,)."""

    layers: Layers
    worst: Tensor
    steps: Tensor


def weigh_examples(
    probability: Tensor, codes: Tensor, *, gamma: float, balanced: bool = True
) -> Tensor:
    """Weigh examples by how little the ERM head believes their class (AFR section 4).

    Args:
        probability: (n,) in [0, 1], of each example's own class.
        codes: (n,) classes from 0.
        gamma: 0 or more; 0 weighs all alike.
        balanced: whether each weight is multiplied by n / n_class.

    Returns:
        (n,) weights that sum to 1.

    Example:
        >>> weigh_examples(torch.tensor([0.5, 0.5]), torch.tensor([0, 1]), gamma=20).tolist()
        [0.5, 0.5]
    """
    # Relative to the least believed, so that no gamma makes all of them zero.
    weights = torch.exp(-gamma * (probability - probability.min()))
    if balanced:
        weights = weights * (len(codes) / torch.bincount(codes))[codes]
    return weights / weights.sum()


def take_step(layers: Layers, stage: Stage, *, learning_rate: float, max_norm: float) -> Layers:
    """Descend once on sum_i w_i CE_i + lambda |theta - start|^2, each layer by itself.

    Args:
        layers: where to step from.
        stage: what they are trained on.
        learning_rate: of gradient descent.
        max_norm: longest gradient of one layer.

    Example:
        >>> zero = Layers(torch.zeros(1, 2, 1), torch.zeros(1, 2))
        >>> stage = Stage(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.ones(1, 1),
        ...               torch.zeros(1), zero)
        >>> take_step(zero, stage, learning_rate=1.0, max_norm=9.0).weights.flatten().tolist()
        [0.5, -0.5]
    """
    count, classes, width = layers.weights.shape
    slopes = _score(layers, stage.values).softmax(-1) - stage.targets[:, None]
    slopes = slopes * stage.weights.T[:, :, None]
    pull = 2 * stage.lambdas
    by_weight = (slopes.flatten(1).T @ stage.values).view(count, classes, width)
    by_weight = by_weight + pull[:, None, None] * (layers.weights - stage.start.weights)
    by_bias = slopes.sum(0) + pull[:, None] * (layers.biases - stage.start.biases)
    norms = (by_weight.square().sum((1, 2)) + by_bias.square().sum(1)).sqrt()
    rates = learning_rate * (max_norm / (norms + 1e-6)).clamp(max=1.0)
    return Layers(
        layers.weights - rates[:, None, None] * by_weight,
        layers.biases - rates[:, None] * by_bias,
    )


def _score(layers: Layers, values: Tensor) -> Tensor:
    """Return logits (n,S,C)."""
    count, classes, _ = layers.weights.shape
    logits = torch.addmm(layers.biases.flatten(), values, layers.weights.flatten(0, 1).T)
    return logits.view(-1, count, classes)


def _find_worst(layers: Layers, val: Validation) -> Tensor:
    """Return the worst-group accuracy of each layer: (S,)."""
    right = _score(layers, val.values).argmax(-1) == val.codes[:, None]
    # Hits are whole numbers, so that equal accuracies are equal to the last bit.
    return (val.members.T @ right.to(val.members.dtype)).double().div(val.sizes).amin(0)


def _descend(
    stage: Stage,
    val: Validation,
    *,
    n_steps: int,
    learning_rate: float,
    max_norm: float,
    best: bool,
) -> _Outcome:
    count = len(stage.lambdas)
    layers = Layers(stage.start.weights.repeat(count, 1, 1), stage.start.biases.repeat(count, 1))
    kept, worst = layers, torch.full((count,), -1.0, dtype=torch.float64)
    steps = torch.full((count,), n_steps)
    for step in range(1, n_steps + 1):
        layers = take_step(layers, stage, learning_rate=learning_rate, max_norm=max_norm)
        if not best:
            continue
        now = _find_worst(layers, val)
        better = now > worst
        steps = torch.where(better, step, steps)
        worst = torch.where(better, now, worst)
        kept = Layers(
            torch.where(better[:, None, None], layers.weights, kept.weights),
            torch.where(better[:, None], layers.biases, kept.biases),
        )
    return (
        _Outcome(kept, worst, steps) if best else _Outcome(layers, _find_worst(layers, val), steps)
    )


class AutomaticFeatureReweighting(LinearHead):
    """Automatic Feature Reweighting of a linear head.

    Args:
        gammas: exponents to choose from.
        lambdas: pulls to the ERM head to choose from.
        n_steps: of gradient descent on all examples.
        learning_rate: of gradient descent.
        max_norm: longest gradient.
        class_balanced: whether weights are multiplied by n / n_class.
        keep_best_step: keep the step with the best validation worst-group accuracy, not the last.
        feature_scale: `rms` divides embeddings by the root mean square of their coordinates, `none`
            takes them as they are.

    Attributes:
        coef_: (C,D) weights, for embeddings as they are given.
        intercept_: (C,) intercepts.
        classes_: (C,) labels, ascending.
        gamma_: the exponent that was chosen.
        lambda_: the pull that was chosen.
        step_: the step that was kept.
        tuning_: (gammas, lambdas) worst-group accuracies in [0, 1] on validation data.

    Example:
        >>> y, place = np.repeat([0, 1], 40), np.repeat([0, 1, 0, 1], [36, 4, 4, 36])
        >>> X = np.stack([y, 3 * place], axis=1) - [0.5, 1.5]
        >>> from fieldmark.methods.linear_probe import ConvexProbe
        >>> erm = ConvexProbe(C=0.1).fit(X, y)
        >>> val = Features(embeddings=X.astype(np.float32), labels=y, groups=2 * y + place)
        >>> head = AutomaticFeatureReweighting(n_steps=10, max_norm=9.0, learning_rate=0.5)
        >>> float(head.fit(X, y, start=erm, val=val).score(X, y)), erm.score(X, y)
        (1.0, 0.9)
    """

    name = "afr"

    def __init__(
        self,
        *,
        gammas: tuple[float, ...] = GAMMAS,
        lambdas: tuple[float, ...] = (0.0,),
        n_steps: int = 100,
        learning_rate: float = 1e-2,
        max_norm: float = 1.0,
        class_balanced: bool = True,
        keep_best_step: bool = True,
        feature_scale: Literal["rms", "none"] = "rms",
    ) -> None:
        self.gammas = gammas
        self.lambdas = lambdas
        self.n_steps = n_steps
        self.learning_rate = learning_rate
        self.max_norm = max_norm
        self.class_balanced = class_balanced
        self.keep_best_step = keep_best_step
        self.feature_scale = feature_scale

    def fit(
        self, X: ArrayLike, y: ArrayLike, *, start: LinearLayer, val: Features
    ) -> AutomaticFeatureReweighting:
        """Retrain on embeddings that the encoder and the ERM head have not been trained on.

        Args:
            X: embeddings (n,D), used in float32.
            y: labels (n,).
            start: the ERM head.
            val: validation data with groups, for the choice of settings.

        Raises:
            ValueError: bad data, or fewer than two classes.
            UsageError: bad settings, or a head of other classes or width.
            NotApplicableError: a validation image whose group is not known.
        """
        self._check_settings()
        values, codes, _ = self._check(X, y, None)
        if not np.array_equal(start.classes_, self.classes_) or (
            start.coef_.shape != (len(self.classes_), values.shape[1])
        ):
            raise UsageError("the ERM head has other classes or another width than the embeddings")
        size = float(np.sqrt(np.mean(values**2)))
        scale = size if self.feature_scale == "rms" and size > 0 else 1.0
        layer = Layers(_to_tensor(start.coef_[None] * scale), _to_tensor(start.intercept_[None]))
        stage = self._prepare(_to_tensor(values / scale), torch.from_numpy(codes), layer)
        outcome = _descend(
            stage,
            _prepare_validation(val, self.classes_, scale=scale),
            n_steps=self.n_steps,
            learning_rate=self.learning_rate,
            max_norm=self.max_norm,
            best=self.keep_best_step,
        )
        self._keep(outcome, scale)
        return self

    def _prepare(self, values: Tensor, codes: Tensor, start: Layers) -> Stage:
        own = _score(start, values)[:, 0].softmax(-1).gather(1, codes[:, None])[:, 0]
        weights = [
            weigh_examples(own, codes, gamma=gamma, balanced=self.class_balanced)
            for gamma in self.gammas
        ]
        return Stage(
            values,
            torch.nn.functional.one_hot(codes).to(values.dtype),
            torch.stack(weights).repeat_interleave(len(self.lambdas), dim=0),
            torch.tensor(self.lambdas, dtype=values.dtype).repeat(len(self.gammas)),
            start,
        )

    def _keep(self, outcome: _Outcome, scale: float) -> None:
        self.tuning_ = outcome.worst.numpy().reshape(len(self.gammas), len(self.lambdas))
        # numpy's argmax returns the first maximum.
        best = int(self.tuning_.argmax())
        self.gamma_ = self.gammas[best // len(self.lambdas)]
        self.lambda_ = self.lambdas[best % len(self.lambdas)]
        self.step_ = int(outcome.steps[best])
        self.coef_ = outcome.layers.weights[best].double().numpy() / scale
        self.intercept_ = outcome.layers.biases[best].double().numpy()

    def _check_settings(self) -> None:
        if not self.gammas or not self.lambdas or min(*self.gammas, *self.lambdas) < 0:
            raise UsageError("AFR needs gammas and lambdas of 0 or more")
        if self.n_steps < 1 or self.learning_rate <= 0 or self.max_norm <= 0:
            raise UsageError("n_steps, learning_rate and max_norm must be above 0")
        if self.feature_scale not in ("rms", "none"):
            raise UsageError(f"feature_scale must be 'rms' or 'none', got {self.feature_scale!r}")

    def describe(self) -> dict[str, object]:
        """Return how the head is set and what was chosen, as JSON values."""
        chosen = {"gamma": self.gamma_, "lambda": self.lambda_, "step": self.step_}
        chosen["val_acc_wg"] = float(self.tuning_.max())
        return {**super().describe(), "selected": chosen}


def _to_tensor(values: ArrayLike) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def _prepare_validation(val: Features, classes: NDArray[np.int64], *, scale: float) -> Validation:
    of = check_groups(val.groups, count=len(val))
    _, places, sizes = np.unique(of, return_inverse=True, return_counts=True)
    members = torch.nn.functional.one_hot(torch.from_numpy(places)).float()
    # A label that is no class of the head is never right.
    codes = np.searchsorted(classes, val.labels)
    codes = np.where(np.isin(val.labels, classes), codes, -1)
    return Validation(
        _to_tensor(val.embeddings / scale),
        torch.from_numpy(codes),
        members,
        torch.from_numpy(sizes)[:, None],
    )


def _find_parts(data: HeadData) -> tuple[LinearLayer, Features]:
    assert data.train is not None
    trained = data.trained
    if trained is not None and data.holdout is None:
        raise NotApplicableError(
            "AFR reweights images that the encoder was not fine-tuned on, and none were held out",
            mend="fine-tune it on 80 % of the training data",
        )
    if trained is not None and not isinstance(trained, LinearLayer):
        raise NotApplicableError("AFR starts from a linear head, and the encoder's own is none")
    if data.holdout is None:
        first, second = hold_out(data.train, share=HELD_OUT, seed=data.seed)
    else:
        first, second = data.train, data.holdout
    probe = LinearProbe(random_state=data.seed)
    return trained or probe.fit(first.embeddings, first.labels), second


def _check(data: HeadData) -> None:
    """Refuse what has no minority group to find, or none to select by."""
    assert data.train is not None
    assert data.val is not None
    require_groups(data.train, split="train")
    require_groups(data.val, split="val")


def _make(data: HeadData) -> AutomaticFeatureReweighting:
    _check(data)
    assert data.val is not None
    start, part = _find_parts(data)
    return AutomaticFeatureReweighting().fit(
        part.embeddings, part.labels, start=start, val=data.val
    )


HEAD = HeadKind(
    name="afr",
    make=_make,
    needs=frozenset({"train", "val"}),
    seeded=True,
    check=_check,
    source="Qiu et al. 2023, section 4; bap.txt M.2",
)
