"""Deep Feature Reweighting: a sparse logistic head retrained on group-balanced validation data.

Kirichenko et al. 2023, sections 4 and C; bap.txt M.2. The penalty is tuned on one half of the
validation data by the worst-group accuracy on the other; then the heads of several group-balanced
draws are averaged. Decisions where paper and published code differ:

- BAP retrains 10 times on "the remaining validation data". The authors' code retrains 20 times on
  all of them. `retrain_on="full"` is the code's reading and the default; `"rest"` draws from the
  half that did not score the penalties.
- The halves are random, but every group is halved by itself, so that none is lost by chance.
- Embeddings are standardised: for tuning by the balanced draw it trains on, for retraining by
  `scale_on`. The authors take the training split there, later code of theirs the validation split.
- Of penalties with the same worst-group accuracy the first one wins, as in the authors' code.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import validate_data

from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.core.seeds import derive_seed, generator
from fieldmark.methods.head import HeadData, HeadKind, require_groups
from fieldmark.methods.linear_probe import LinearHead
from fieldmark.metrics.groups import count_groups, worst_group_accuracy

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
PENALTIES = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
# scikit-learn 1.8 deprecated penalty="l1" in favour of l1_ratio=1.
_L1 = {"l1_ratio": 1.0} if LogisticRegression().penalty == "deprecated" else {"penalty": "l1"}


class _Halves(NamedTuple):
    """Row numbers of the two halves of the validation data."""

    scored: Rows
    rest: Rows


class _Linear(NamedTuple):
    """A linear head: weights (C,D) and intercepts (C,)."""

    coef: Floats
    intercept: Floats


def check_groups(groups: ArrayLike, *, count: int) -> Rows:
    """Return group ids (n,) as integers.

    Args:
        groups: (n,) group ids, none of them -1.
        count: how many there must be.

    Raises:
        ValueError: another shape.
        NotApplicableError: rows whose group is not known.

    Example:
        >>> check_groups([0, 3], count=2).tolist()
        [0, 3]
    """
    of = np.asarray(groups, dtype=np.int64)
    if of.shape != (count,):
        raise ValueError(f"groups have shape {of.shape}, expected ({count},)")
    unknown = int((of < 0).sum())
    if unknown:
        raise NotApplicableError(f"the group of {unknown} of {count} images is not known")
    return of


def split_groups(groups: ArrayLike, *, random: np.random.Generator) -> tuple[Rows, Rows]:
    """Halve the rows at random, every group by itself.

    Args:
        groups: (n,) group ids.
        random: source of chance.

    Returns:
        Row numbers of the two halves, ascending. Of an odd number the second half has one more.

    Raises:
        NotApplicableError: a group has fewer than 2 rows.

    Example:
        >>> first, second = split_groups([0, 0, 0, 0, 1, 1], random=np.random.default_rng(0))
        >>> len(first), len(second), sorted([*first.tolist(), *second.tolist()])
        (3, 3, [0, 1, 2, 3, 4, 5])
    """
    of = np.asarray(groups)
    firsts = []
    for group in np.unique(of):
        rows = random.permutation(np.flatnonzero(of == group))
        if len(rows) < 2:
            raise NotApplicableError(
                f"group {group} has 1 validation image, which cannot be in both halves"
            )
        firsts.append(rows[: len(rows) // 2])
    first = np.sort(np.concatenate(firsts))
    return first, np.setdiff1d(np.arange(len(of)), first)


def draw_balanced(groups: ArrayLike, *, random: np.random.Generator) -> Rows:
    """Draw rows without replacement, as many of each group as the smallest has.

    Args:
        groups: (n,) group ids.
        random: source of chance.

    Example:
        >>> groups = np.array([0, 0, 0, 5, 5, 7])
        >>> groups[draw_balanced(groups, random=np.random.default_rng(0))].tolist()
        [0, 5, 7]
    """
    of = np.asarray(groups)
    parts = [random.permutation(np.flatnonzero(of == group)) for group in np.unique(of)]
    smallest = min(map(len, parts))
    return np.concatenate([rows[:smallest] for rows in parts])


def _solve(X: Floats, codes: Rows, penalty: float, *, classes: int, seed: int) -> _Linear:
    """Fit L1 logistic regression; more than two classes one against the rest, as liblinear does."""
    solver = LogisticRegression(
        C=penalty, solver="liblinear", max_iter=1000, random_state=seed, **_L1
    )
    if classes == 2:
        solver.fit(X, codes)
        coef, intercept = solver.coef_[0] / 2, solver.intercept_[0] / 2
        return _Linear(np.stack([-coef, coef]), np.array([-intercept, intercept]))
    coefs, intercepts = [], []
    for c in range(classes):
        solver.fit(X, codes == c)
        coefs.append(solver.coef_[0])
        intercepts.append(solver.intercept_[0])
    return _Linear(np.stack(coefs), np.array(intercepts))


def _unscale(head: _Linear, scaler: StandardScaler | None) -> _Linear:
    """Turn a head on standardised embeddings into the same head on the embeddings themselves."""
    if scaler is None:
        return head
    coef = head.coef / scaler.scale_
    return _Linear(coef, head.intercept - coef @ scaler.mean_)


class DeepFeatureReweighting(LinearHead):
    """Deep Feature Reweighting on validation embeddings.

    Args:
        penalties: values of C, inverse strengths of the L1 penalty, to choose from.
        n_retrains: heads to average.
        retrain_on: `full` draws from all validation data; `rest` from the half that did not score
            the penalties.
        scale_on: what standardises the embeddings for retraining: `train`, `val` (the rows that
            are drawn from), or `none`, which leaves embeddings as they are, in tuning too.
        random_state: seed of halves, draws and solver, 0 or more.

    Attributes:
        coef_: (C,D) mean weights, for embeddings that are not standardised.
        intercept_: (C,) mean intercepts.
        classes_: (C,) labels, ascending.
        C_: the penalty that was chosen.
        tuning_: worst-group accuracy in [0, 1] of each penalty that was tried.

    Example:
        >>> random = np.random.default_rng(0)
        >>> y, place = np.repeat([0, 1], 40), np.tile([0, 1], 40)
        >>> X = np.stack([y, place], axis=1) + 0.1 * random.normal(size=(80, 2))
        >>> head = DeepFeatureReweighting(scale_on="val").fit(X, y, groups=2 * y + place)
        >>> head.predict([[0, 1], [1, 0]]).tolist()
        [0, 1]
    """

    name = "dfr"

    def __init__(
        self,
        *,
        penalties: tuple[float, ...] = PENALTIES,
        n_retrains: int = 10,
        retrain_on: Literal["full", "rest"] = "full",
        scale_on: Literal["train", "val", "none"] = "train",
        random_state: int = 0,
    ) -> None:
        self.penalties = penalties
        self.n_retrains = n_retrains
        self.retrain_on = retrain_on
        self.scale_on = scale_on
        self.random_state = random_state

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        groups: ArrayLike,
        X_train: ArrayLike | None = None,
    ) -> DeepFeatureReweighting:
        """Tune and retrain on validation data.

        Args:
            X: validation embeddings (n,D).
            y: their labels (n,).
            groups: their group ids (n,).
            X_train: training embeddings (m,D), read for their mean and deviation alone; needed
                with `scale_on="train"`.

        Raises:
            ValueError: bad data, or fewer than two classes.
            UsageError: settings that do not go together.
            NotApplicableError: a group has fewer than 2 rows, or a row's group is not known.
        """
        self._check_settings(X_train)
        values, codes, _ = self._check(X, y, None)
        of = check_groups(groups, count=len(codes))
        train = None
        if self.scale_on == "train":
            train = validate_data(self, X_train, reset=False, dtype=[np.float64, np.float32])
        # Everything was checked above, and each of the small fits would check it again.
        with config_context(assume_finite=True, skip_parameter_validation=True):
            self._fit_checked(values, codes, of, train)
        return self

    def _fit_checked(self, values: Floats, codes: Rows, of: Rows, train: Floats | None) -> None:
        halves = _Halves(*split_groups(of, random=generator(self.random_state, "dfr", "halves")))
        self.tuning_ = self._tune(values, codes, of, halves)
        self.C_ = max(self.tuning_, key=lambda penalty: self.tuning_[penalty])
        pool = halves.rest if self.retrain_on == "rest" else np.arange(len(codes))
        scaler = self._fit_scaler(values[pool] if train is None else train)
        scaled = scaler.transform(values[pool]) if scaler else values[pool]
        heads = []
        for k in range(self.n_retrains):
            rows = draw_balanced(of[pool], random=generator(self.random_state, "dfr", "draw", k))
            heads.append(self._solve(scaled[rows], codes[pool][rows], self.C_, name=k))
        mean = _Linear(*(np.mean(part, axis=0) for part in zip(*heads, strict=True)))
        self.coef_, self.intercept_ = _unscale(mean, scaler)

    def _tune(self, X: Floats, codes: Rows, of: Rows, halves: _Halves) -> dict[float, float]:
        draw = draw_balanced(of[halves.rest], random=generator(self.random_state, "dfr", "tune"))
        rows = halves.rest[draw]
        scaler = self._fit_scaler(X[rows])
        train = scaler.transform(X[rows]) if scaler else X[rows]
        scored = scaler.transform(X[halves.scored]) if scaler else X[halves.scored]
        worst: dict[float, float] = {}
        for penalty in self.penalties:
            head = self._solve(train, codes[rows], penalty, name="tune")
            found = (scored @ head.coef.T + head.intercept).argmax(axis=1)
            counts = count_groups(found == codes[halves.scored], of[halves.scored])
            worst[penalty] = worst_group_accuracy(counts)
            # The first maximum wins, and nothing is better than this.
            if worst[penalty] == 1:
                break
        return worst

    def _solve(self, X: Floats, codes: Rows, penalty: float, *, name: object) -> _Linear:
        seed = derive_seed(self.random_state, "dfr", "solver", name) % 2**31
        return _solve(X, codes, penalty, classes=len(self.classes_), seed=seed)

    def _fit_scaler(self, values: Floats) -> StandardScaler | None:
        return None if self.scale_on == "none" else StandardScaler().fit(values)

    def _check_settings(self, X_train: ArrayLike | None) -> None:
        if self.retrain_on not in ("full", "rest"):
            raise UsageError(f"retrain_on must be 'full' or 'rest', got {self.retrain_on!r}")
        if self.scale_on not in ("train", "val", "none"):
            raise UsageError(f"scale_on must be 'train', 'val' or 'none', got {self.scale_on!r}")
        if self.scale_on == "train" and X_train is None:
            raise UsageError("scale_on='train' needs X_train", mend="or choose scale_on='val'")
        if self.n_retrains < 1 or not self.penalties or min(self.penalties) <= 0:
            raise UsageError("DFR needs at least one retrain, and penalties above 0")

    def describe(self) -> dict[str, object]:
        """Return how the head is set and which penalty was chosen, as JSON values."""
        chosen = {"C": self.C_, "val_acc_wg": self.tuning_[self.C_]}
        return {**super().describe(), "selected": chosen}


def _check(data: HeadData) -> None:
    assert data.val is not None
    require_groups(data.val, split="val", minimum=2)


def _make(data: HeadData, retrain_on: Literal["full", "rest"] = "full") -> DeepFeatureReweighting:
    _check(data)
    assert data.train is not None
    assert data.val is not None
    return DeepFeatureReweighting(retrain_on=retrain_on, random_state=data.seed).fit(
        data.val.embeddings,
        data.val.labels,
        groups=data.val.groups,
        X_train=data.train.embeddings,
    )


HEAD = HeadKind(
    name="dfr",
    make=_make,
    needs=frozenset({"train", "val"}),
    seeded=True,
    check=_check,
    source="Kirichenko et al. 2023, section 4; bap.txt M.2",
)
# The other reading of M.2: "the remaining validation data".
REST_HEAD = replace(
    HEAD, name="dfr-rest", make=functools.partial(_make, retrain_on="rest"), source="bap.txt M.2"
)
