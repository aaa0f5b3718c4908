"""Both probes: scikit-learn's own checks, plain torch, the optimum, and files."""

import json

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from fieldmark.core.errors import InputError
from fieldmark.core.seeds import generator
from fieldmark.methods.head import Concepts, Features, HeadData
from fieldmark.methods.heads import HEADS
from fieldmark.methods.linear_probe import ConvexProbe, LinearProbe, load_probe, save_probe

ONLY_BALANCED = "class weights are balanced or none, as in the paper"


def _expected_failures(probe):
    failures = {"check_class_weight_classifiers": ONLY_BALANCED}
    if isinstance(probe, LinearProbe):
        reason = "a repeated example falls into another batch than its copy"
        failures["check_sample_weight_equivalence_on_dense_data"] = reason
    return failures


@parametrize_with_checks(
    [LinearProbe(), ConvexProbe()], expected_failed_checks=_expected_failures, xfail_strict=True
)
def test_scikit_learn(estimator, check):
    check(estimator)


def _embeddings(*, counts=(150, 50), dim=16, seed=0):
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    means = random.normal(size=(len(counts), dim))
    values = 0.5 * means[labels] + random.normal(size=(len(labels), dim))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32), labels


def test_linear_probe_is_plain_torch():
    """The paper's recipe written out with torch's own modules, on the same order of examples."""
    X, y = _embeddings(counts=(150, 50, 90))
    layer = nn.Linear(16, 3)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    weight = torch.tensor([290 / (3 * n) for n in (150, 50, 90)])
    loss = nn.CrossEntropyLoss(weight=weight)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=5e-4)
    random = generator(7, "linear-probe")
    for _ in range(30):
        for batch in np.array_split(random.permutation(290), [128, 256]):
            optimiser.zero_grad()
            loss(layer(torch.tensor(X[batch])), torch.tensor(y[batch])).backward()
            optimiser.step()
    probe = LinearProbe(random_state=7).fit(X, y)
    assert probe.coef_ == pytest.approx(layer.weight.detach().numpy(), abs=1e-6)
    assert probe.intercept_ == pytest.approx(layer.bias.detach().numpy(), abs=1e-6)


def test_linear_probe_nears_the_optimum():
    X, y = _embeddings(counts=(150, 50, 90))
    probe = LinearProbe(epochs=400, learning_rate=0.01, weight_decay=0).fit(X, y)
    optimum = ConvexProbe(C=1e4).fit(X, y)
    agree = probe.predict(X) == optimum.predict(X)
    assert agree.mean() > 0.98


def test_convex_probe_is_scikit_learns():
    X, y = _embeddings()
    ours = ConvexProbe(C=3).fit(X, y)
    theirs = LogisticRegression(C=3, class_weight="balanced", tol=1e-6, max_iter=1000).fit(X, y)
    assert ours.predict_proba(X) == pytest.approx(theirs.predict_proba(X), abs=1e-4)
    assert ours.decision_function(X) == pytest.approx(theirs.decision_function(X), abs=1e-3)
    assert ours.coef_.shape == (2, 16)


def test_more_classes_have_a_score_each():
    X, y = _embeddings(counts=(30, 30, 30))
    probe = ConvexProbe().fit(X, y)
    scores = probe.decision_function(X)
    assert scores.shape == (90, 3)
    assert probe.predict_proba(X).sum(axis=1) == pytest.approx(np.ones(90))
    assert (scores.argmax(axis=1) == probe.predict(X)).all()


@pytest.mark.parametrize("probe", [LinearProbe(), ConvexProbe()])
def test_balanced_weights_lift_the_rare_class(probe):
    X, y = _embeddings(counts=(950, 50), dim=6)
    plain = clone(probe).set_params(class_weight=None).fit(X, y)
    rare = y == 1
    assert probe.fit(X, y).score(X[rare], y[rare]) > plain.score(X[rare], y[rare]) + 0.1


@pytest.mark.parametrize("probe", [LinearProbe(epochs=5), ConvexProbe()])
def test_weight_zero_leaves_out(probe):
    X, y = _embeddings()
    kept = np.arange(len(y)) % 3 > 0
    weighted = clone(probe).fit(X, y, sample_weight=kept.astype(float))
    without = clone(probe).fit(X[kept], y[kept])
    assert weighted.coef_ == pytest.approx(without.coef_, abs=1e-6)


def test_seed_decides():
    X, y = _embeddings()
    first, again, other = (LinearProbe(random_state=s, epochs=3).fit(X, y).coef_ for s in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_bad_training_data_is_refused():
    X, y = _embeddings()
    with pytest.raises(ValueError, match="at least 2 classes, got 1 class"):
        LinearProbe().fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="not negative"):
        ConvexProbe().fit(X, y, sample_weight=-np.ones(len(X)))
    with pytest.raises(ValueError, match="every sample_weight is zero"):
        ConvexProbe().fit(X, y, sample_weight=np.zeros(len(X)))


@pytest.mark.parametrize("probe", [LinearProbe(epochs=2), ConvexProbe(C=0.5)])
@pytest.mark.parametrize("names", [np.array(["owl", "elk"]), np.array([3, 8])])
def test_save_and_load(tmp_path, probe, names):
    X, y = _embeddings()
    fitted = clone(probe).fit(X, names[y])
    save_probe(fitted, tmp_path / "probe")
    loaded = load_probe(tmp_path / "probe")
    assert type(loaded) is type(probe)
    assert loaded.get_params() == probe.get_params()
    assert (loaded.predict(X) == fitted.predict(X)).all()
    assert (loaded.predict_proba(X) == fitted.predict_proba(X)).all()
    record = json.loads((tmp_path / "probe" / "probe.json").read_text())
    assert record["head"] == probe.name == fitted.describe()["head"]
    assert sorted(p.name for p in (tmp_path / "probe").iterdir()) == [
        "probe.json",
        "probe.safetensors",
    ]


def test_unfitted_probe_is_not_saved(tmp_path):
    with pytest.raises(NotFittedError):
        save_probe(ConvexProbe(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["none", "record", "weights", "head", "bit", "class"])
def test_damaged_probe_is_named(tmp_path, damage):
    X, y = _embeddings()
    if damage != "none":
        save_probe(ConvexProbe().fit(X, y), tmp_path)
    if damage == "record":
        (tmp_path / "probe.json").write_text("{")
    if damage == "weights":
        (tmp_path / "probe.safetensors").write_bytes(b"short")
    if damage == "head":
        (tmp_path / "probe.json").write_text('{"head": "forest", "params": {}, "classes": []}')
    if damage == "bit":
        data = bytearray((tmp_path / "probe.safetensors").read_bytes())
        data[-1] ^= 1
        (tmp_path / "probe.safetensors").write_bytes(data)
    if damage == "class":
        path = tmp_path / "probe.json"
        path.write_text(path.read_text().replace('"classes": [\n    ', '"classes": [\n    1'))
    with pytest.raises(InputError, match="holds no whole probe"):
        load_probe(tmp_path)


def test_heads_by_name():
    X, y = _embeddings()
    part = Features(embeddings=X, labels=y, groups=y)
    texts = np.eye(4, 16, dtype=np.float32).reshape(2, 2, 16)
    data = HeadData(
        train=part,
        val=part,
        prototypes=np.eye(2, 16, dtype=np.float32),
        concepts=Concepts(reject=texts[:1], accept=texts[1:]),
        seed=5,
    )
    made = {name: kind.make(data) for name, kind in HEADS.items()}
    # Both readings of DFR are one head, set otherwise.
    said = {name: str(head.describe()["head"]) for name, head in made.items()}
    assert {name: head for name, head in said.items() if name != head} == {"dfr-rest": "dfr"}
    assert made["linear-probe"].describe()["random_state"] == 5
    seedless = {"zero-shot", "convex-probe", "roboshot"}
    assert {name for name, kind in HEADS.items() if not kind.seeded} == seedless
    assert all(head.predict(X).shape == (200,) for head in made.values())
