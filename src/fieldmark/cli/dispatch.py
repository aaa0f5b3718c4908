"""Find the verb, run it, turn errors into one line and an exit code.

A verb is imported when it is called, so `fieldmark --help` loads nothing: it prints the
table below. Each verb is a typer app of its own.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from types import MappingProxyType

from fieldmark import __version__

VERBS: Mapping[str, str] = MappingProxyType(
    {
        "demo": "the whole tour on what packages carry: an encoder before and after BAP",
        "audit": "one page on how far a model leans on backgrounds, how sure that is, what to do",
        "data": "list, describe, build and check data sets",
        "embed": "embed images once, into safetensors",
        "bap": "pre-train an encoder to ignore backgrounds, or train a control of it",
        "evaluate": "zero-shot and probe accuracy by group, with intervals",
        "bench": "every method on every data set, and the studies, beside the paper's figures",
        "discover": "region clusters that a model spuriously ties to a class, with pictures",
        "mitigate": "fine-tune an encoder so that it ignores what discover found",
        "explain": "what in an image speaks for a text, by CCI and twelve rival methods",
        "faithfulness": "which of these methods to believe: deletion, insertion, sanity checks",
        "diagnose": "whether errors come from the background, each share beside its null",
        "app": "a window: an image, some labels; scores, maps, the answer without background",
        "covar": "a benchmark in which one thing about an image changes at a time",
        "export": "models for their library or the hub, results for other tools",
    }
)
# What torchrun may start; any other verb would write one folder from several processes.
TRAINS_TOGETHER = ("bap",)
NOTHING_TO_RESUME = ("app", "data", "export")
# Exit code of a command that Ctrl-C ended.
INTERRUPTED = 130
_HEAD = (
    "fieldmark finds, explains, measures and removes what a vision-language model spuriously\n"
    "relies on."
)
_TAIL = (
    "Run `fieldmark VERB --help` for the options of a verb, `fieldmark --version` for the version."
)


def format_help() -> str:
    """Return the text of `fieldmark --help`."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items()]
    return "\n".join(["Usage: fieldmark VERB [OPTIONS]", "", _HEAD, "", *lines, "", _TAIL])


def run(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its code: 0 done, 1 the work failed, 2 the words are off."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("--help", "-h"):
        print(format_help())  # noqa: T201  # this is the help
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        print(f"fieldmark {__version__}")  # noqa: T201  # this is the version
        sys.exit(0)
    sys.exit(_run_verb(words[0], words[1:]))


def _run_verb(verb: str, words: list[str]) -> int:
    from fieldmark.core.errors import FieldmarkError

    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return _call(verb, words)
    except FieldmarkError as error:
        if debug:
            raise
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        again = "; the same command with --resume goes on where it was"
        return _fail(f"stopped{'' if verb in NOTHING_TO_RESUME else again}", INTERRUPTED)
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)


def _call(verb: str, words: list[str]) -> int:
    from fieldmark.core.errors import UnknownNameError, UsageError

    if verb not in VERBS:
        raise UnknownNameError("verb", verb, VERBS)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and verb not in TRAINS_TOGETHER:
        raise UsageError(
            f"{verb} is for one process, torchrun started {os.environ['WORLD_SIZE']}",
            mend=f"leave torchrun out; {', '.join(TRAINS_TOGETHER)} trains on several",
        )
    import typer
    from typer.exceptions import TyperException

    app = importlib.import_module(f"fieldmark.cli.{verb}").app
    try:
        code = int(app(words, prog_name=f"fieldmark {verb}", standalone_mode=False) or 0)
    except TyperException as error:
        raise UsageError(error.format_message(), mend=f"see `fieldmark {verb} --help`") from error
    except typer.Abort:
        raise KeyboardInterrupt from None
    if code == INTERRUPTED:  # typer's own word for Ctrl-C
        raise KeyboardInterrupt
    return code


def _fail(message: str, code: int) -> int:
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"fieldmark: {message}", file=sys.stderr)  # noqa: T201  # the one line of an error
    return code
