"""Group distributionally robust optimisation of a linear head.

Sagawa et al. 2020, algorithm 1. A weight q on every group follows the group's loss,

    q_g <- q_g exp(step (loss_g + C / sqrt(n_g))),   then q sums to 1,

and the head descends on sum_g q_g loss_g. Batches are drawn balanced by group, which stands for the
algorithm's "pick a group", as in the authors' code. Decisions:

- A group that is absent from a batch keeps its q but for the normalisation: its loss is not known.
  The authors' code gives it loss 0 and the adjustment C / sqrt(n_g); without C that is the same.
- The head is trained as `LinearProbe` is (bap.txt M.3.1: from zero, AdamW at 5e-4, batches of 128,
  30 epochs), so that the loss alone is what differs from the probe. Weight decay is the probe's.
- With validation data the epoch with the best worst-group accuracy is kept, the first of equals;
  without them the last.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional

from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.core.seeds import generator
from fieldmark.methods.dfr import check_groups
from fieldmark.methods.head import Features, HeadData, HeadKind, require_groups
from fieldmark.methods.linear_probe import LinearHead
from fieldmark.metrics.groups import count_groups, worst_group_accuracy


def update_group_weights(q: Tensor, losses: Tensor, *, step: float, present: Tensor) -> Tensor:
    """Raise the weights of groups with high loss (Sagawa et al. 2020, algorithm 1).

    Args:
        q: (G,) weights of the groups, 0 or more, that sum to 1.
        losses: (G,) mean loss of each group in the batch, adjusted if it is to be; read where
            present alone.
        step: size of the step, 0 or more.
        present: (G,) whether the batch has images of the group. An absent one changes by the
            normalisation alone.

    Returns:
        (G,) weights that sum to 1.

    Example:
        >>> q = update_group_weights(
        ...     torch.tensor([0.5, 0.5]), torch.tensor([1.0, torch.nan]), step=float(np.log(3)),
        ...     present=torch.tensor([True, False]))
        >>> [round(weight, 4) for weight in q.tolist()]
        [0.75, 0.25]
    """
    exponents = torch.where(present, step * losses, 0.0)
    # The largest is taken off, which the normalisation cancels, so that none overflows.
    raised = q * torch.exp(exponents - exponents.max())
    return raised / raised.sum()


def average_by_group(losses: Tensor, groups: Tensor, *, count: int) -> Tensor:
    """Return the mean loss of each group (G,), NaN for a group that is absent.

    Args:
        losses: (b,) of the examples of a batch.
        groups: (b,) numbers of their groups in [0, count).
        count: G.

    Example:
        >>> average_by_group(torch.tensor([1.0, 3.0]), torch.tensor([1, 1]), count=2).tolist()
        [nan, 2.0]
    """
    sums = torch.zeros(count, dtype=losses.dtype).index_add(0, groups, losses)
    return sums / torch.bincount(groups, minlength=count)


class _Examples(NamedTuple):
    """Embeddings (n,D), class codes (n,) and numbers of groups (n,)."""

    values: Tensor
    codes: Tensor
    groups: Tensor


class GroupDroProbe(LinearHead):
    """A linear probe trained by group DRO.

    Args:
        epochs: passes of as many examples as there are.
        learning_rate: of AdamW.
        batch_size: examples a step, drawn with replacement, each group as likely as any other.
        weight_decay: of AdamW, on weights and intercepts.
        step: of the group weights, eta in the paper.
        adjustment: C of C / sqrt(n_g), which is added to the loss that moves the group weights; 0
            or more.
        random_state: seed of the batches, 0 or more.

    Attributes:
        coef_: (C,D) weights.
        intercept_: (C,) intercepts.
        classes_: (C,) labels, ascending.
        val_worst_: worst-group accuracy of each epoch on validation data, empty without them.
        group_weights_: group id to its weight q at the end of training.
        epoch_: the epoch that was kept, from 1.

    Example:
        >>> y, place = np.repeat([0, 1], 40), np.repeat([0, 1, 0, 1], [36, 4, 4, 36])
        >>> X = np.stack([y, 2 * place], axis=1) - [0.5, 1.0]
        >>> head = GroupDroProbe(learning_rate=0.1).fit(X, y, groups=2 * y + place)
        >>> head.predict([[-0.5, 1.0], [0.5, -1.0]]).tolist()
        [0, 1]
    """

    name = "group-dro"
    val_worst_: list[float]

    def __init__(
        self,
        *,
        epochs: int = 30,
        learning_rate: float = 5e-4,
        batch_size: int = 128,
        weight_decay: float = 0.01,
        step: float = 0.01,
        adjustment: float = 0.0,
        random_state: int = 0,
    ) -> None:
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.step = step
        self.adjustment = adjustment
        self.random_state = random_state

    def fit(
        self, X: ArrayLike, y: ArrayLike, *, groups: ArrayLike, val: Features | None = None
    ) -> GroupDroProbe:
        """Train on embeddings.

        Args:
            X: embeddings (n,D), used in float32.
            y: labels (n,).
            groups: group ids (n,).
            val: validation data with groups, which choose the epoch.

        Raises:
            ValueError: bad data, or fewer than two classes.
            UsageError: bad settings.
            NotApplicableError: an image whose group is not known.
        """
        self._check_settings()
        values, codes, _ = self._check(X, y, None)
        ids, places, sizes = np.unique(
            check_groups(groups, count=len(codes)), return_inverse=True, return_counts=True
        )
        examples = _Examples(
            torch.from_numpy(values).float(), torch.from_numpy(codes), torch.from_numpy(places)
        )
        # A plain nn.Linear would draw a start from the global random state.
        layer = nn.utils.skip_init(nn.Linear, values.shape[1], len(self.classes_))
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
        optimiser = torch.optim.AdamW(
            layer.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        q = torch.full((len(ids),), 1.0 / len(ids))
        raised = torch.from_numpy(self.adjustment / np.sqrt(sizes)).float()
        random = generator(self.random_state, "group-dro")
        self.val_worst_ = []
        for _ in range(self.epochs):
            # Of an image of group g the chance is 1 / (G n_g).
            drawn = random.choice(len(codes), len(codes), p=(1 / (len(ids) * sizes))[places])
            for rows in torch.from_numpy(drawn).split(self.batch_size):
                batch = _Examples(*(part[rows] for part in examples))
                q = _descend(layer, optimiser, batch, q=q, raised=raised, step=self.step)
            self._keep(layer, val)
        self.group_weights_ = dict(zip(ids.tolist(), q.tolist(), strict=True))
        return self

    def _keep(self, layer: nn.Linear, val: Features | None) -> None:
        """Take over the layer if it is the best so far, or if nothing says which is best."""
        coef, intercept = (part.detach().double().numpy().copy() for part in layer.parameters())
        if val is not None:
            scores = val.embeddings @ coef.T + intercept
            right = self.classes_[scores.argmax(axis=1)] == val.labels
            worst = worst_group_accuracy(
                count_groups(right, check_groups(val.groups, count=len(val)))
            )
            self.val_worst_.append(worst)
            if worst <= max(self.val_worst_[:-1], default=-1.0):
                return
            self.epoch_ = len(self.val_worst_)
        else:
            self.epoch_ = self.epochs
        self.coef_, self.intercept_ = coef, intercept

    def _check_settings(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise UsageError("epochs, batch_size and learning_rate must be above 0")
        if self.step < 0 or self.adjustment < 0 or self.weight_decay < 0:
            raise UsageError("step, adjustment and weight_decay must not be negative")

    def describe(self) -> dict[str, object]:
        """Return how the head is set and which epoch was kept, as JSON values."""
        chosen: dict[str, object] = {"epoch": self.epoch_}
        if self.val_worst_:
            chosen["val_acc_wg"] = self.val_worst_[self.epoch_ - 1]
        return {**super().describe(), "selected": chosen}


def _descend(
    layer: nn.Linear,
    optimiser: torch.optim.Optimizer,
    batch: _Examples,
    *,
    q: Tensor,
    raised: Tensor,
    step: float,
) -> Tensor:
    """Move the weights of the groups, then the layer; return the weights."""
    optimiser.zero_grad()
    losses = functional.cross_entropy(layer(batch.values), batch.codes, reduction="none")
    means = average_by_group(losses, batch.groups, count=len(q))
    present = torch.bincount(batch.groups, minlength=len(q)) > 0
    q = update_group_weights(q, means.detach() + raised, step=step, present=present)
    (q[present] @ means[present]).backward()
    optimiser.step()
    return q


def _check(data: HeadData) -> None:
    assert data.train is not None
    assert data.val is not None
    try:
        require_groups(data.train, split="train")
    except NotApplicableError as error:
        raise NotApplicableError(
            f"group DRO weighs the loss of every group in training, and {error}"
        ) from error
    require_groups(data.val, split="val")


def _make(data: HeadData) -> GroupDroProbe:
    _check(data)
    assert data.train is not None
    train = data.train
    return GroupDroProbe(random_state=data.seed).fit(
        train.embeddings, train.labels, groups=train.groups, val=data.val
    )


HEAD = HeadKind(
    name="group-dro",
    make=_make,
    needs=frozenset({"train", "val"}),
    seeded=True,
    check=_check,
    source="Sagawa et al. 2020, algorithm 1",
)
