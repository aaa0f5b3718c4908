"""Controlled settings on an encoder of one matrix that sees only mean colours."""

from __future__ import annotations

import torch
from torch import nn

from fieldmark.benchmarks.budgets import Budget
from fieldmark.benchmarks.controlled import plan, run
from fieldmark.benchmarks.suite import Request
from fieldmark.testing import FakeEncoder
from fieldmark.testing.fake_encoder import FakeTower

# Every class is a colour to the fake text tower, and no two are one.
COLOURS = ("red", "green", "blue", "yellow", "cyan", "magenta", "white")
AMOUNTS = {
    "settings": 2,
    "mitigations": 1,
    "tuning": 60,
    "evaluation": 40,
    "epochs": 2,
    "batch_size": 16,
}


def make_fake_encoder() -> FakeEncoder:
    """Return a fake encoder to which a black region is not nothing."""
    tower = FakeTower()
    weight = tower.mix.weight
    tower.mix = nn.Linear(6, 6)
    with torch.no_grad():
        tower.mix.weight.copy_(weight)
        tower.mix.bias.copy_(torch.linspace(0.1, 0.3, 6))
    return FakeEncoder(tower=tower)


def use_fake_encoder(monkeypatch, *, classes):
    """Have every encoder that is opened be the fake one, and every class named by a colour."""
    read = FakeEncoder.encode_text
    named = {name: f"{COLOURS[i % 7]} {COLOURS[i // 7]}" for i, name in enumerate(classes)}

    def encode_text(self, texts):
        return read(self, [" ".join(named.get(word, word) for word in t.split()) for t in texts])

    opened = []

    def open_small_encoder(domain, *, report):
        opened.append(domain)
        return make_fake_encoder()

    def load_encoder(uri, **_):
        opened.append(uri)
        return make_fake_encoder()

    monkeypatch.setattr(FakeEncoder, "encode_text", encode_text)
    monkeypatch.setattr(run, "open_small_encoder", open_small_encoder)
    monkeypatch.setattr(run, "load_encoder", load_encoder)
    monkeypatch.setattr(plan, "load_encoder", load_encoder)
    return opened


def make_request(*, datasets=("digits",), model="small", root=None, seeds=(0,), **study):
    """Return a request of few and small settings."""
    return Request(
        suite="ravl",
        models=(model,),
        datasets=datasets,
        root=root,
        seeds=seeds,
        budget=Budget(name="tiny", summary="", study={**AMOUNTS, **study}),
    )
