"""The command line: help, exit codes, one line for an error, nothing heavy before it is needed."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import typer

from fieldmark import __version__
from fieldmark.cli.dispatch import VERBS, run


def call(*words: str, capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        run(list(words))
    told = capsys.readouterr()
    return int(stop.value.code or 0), told.out, told.err


def test_help_lists_every_verb(capsys, golden):
    code, out, _ = call("--help", capsys=capsys)
    assert code == 0
    golden("help.txt", out)
    for verb in VERBS:
        assert importlib.import_module(f"fieldmark.cli.{verb}").app


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys, golden, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "dumb")
    code, out, _ = call(verb, "--help", capsys=capsys)
    assert code == 0
    assert "Usage: fieldmark" in out


def test_version(capsys):
    assert call("--version", capsys=capsys)[1] == f"fieldmark {__version__}\n"


@pytest.mark.parametrize(
    ("verb", "ending"),
    [("embed", "stopped; the same command with --resume goes on where it was"), ("app", "stopped")],
)
def test_a_stopped_command_says_how_it_goes_on(verb, ending, capsys, monkeypatch):
    app = typer.Typer(add_completion=False)

    @app.command()
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module(f"fieldmark.cli.{verb}"), "app", app)
    assert call(verb, capsys=capsys) == (130, "", f"fieldmark: {ending}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluat"], "unknown verb 'evaluat'; did you mean evaluate?"),
        (["embed"], "Missing option '--model'"),
        (["embed", "--bogus"], "No such option: --bogus"),
        (["demo", "--out", "x", "--seed", "-1"], "'--seed'"),
        (["demo", "--out", "x", "--set", "contexts=0"], "contexts = 0: input should be greater"),
        (["demo", "--out", "x", "--set", "anchor_contexts=0"], "anchor_contexts = 0"),
        (["demo", "--out", "x", "--set", "objects=0"], "objects = 0"),
        (["demo", "--out", "x", "--set", "contxts=1"], "unknown setting 'contxts'; known: "),
        (["demo", "--out", "x", "--set", "contexts"], "is not key=value"),
        (["demo", "--out", "x", "--preset", "papr"], "unknown preset 'papr'; did you mean paper?"),
    ],
)
def test_words_that_are_off_are_one_line_and_exit_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*words, capsys=capsys)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


HEAVY = {"torch", "open_clip", "transformers", "sklearn", "matplotlib", "gradio"}


def loaded_by(code: str) -> set[str]:
    program = f"import sys; {code}; print(*sys.modules, file=sys.stderr)"
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(told.stderr.split())


def test_importing_and_help_load_nothing_heavy():
    for code in (
        "import fieldmark",
        "import fieldmark.cli.dispatch as a; a.format_help()",
        *(f"import fieldmark.cli.{verb}" for verb in VERBS),
    ):
        heavy = loaded_by(code) & HEAVY
        assert not heavy, code


def test_help_itself_loads_no_typer():
    assert not loaded_by("import fieldmark.cli.dispatch as a; a.format_help()") & {
        "typer",
        "rich",
        "numpy",
    }
