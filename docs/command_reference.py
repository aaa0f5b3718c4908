"""Pages of the command line, made from the verbs themselves, so that they cannot go stale."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any

from fieldmark.cli.dispatch import VERBS

_SEEN_AS_CODE = re.compile(r"(`[^`]+`|<[^<>]*>|\b[A-Z]{2,}(?:/[a-z-]+)+(?:\.[a-z]+)?|\B--[a-z-]+)")


def list_verbs() -> tuple[str, ...]:
    """Return every verb, in the order of `fieldmark --help`."""
    return tuple(VERBS)


def write_index() -> str:
    """Return the page that lists the verbs.

    Example:
        >>> "| [`bap`](bap.md) |" in write_index()
        True
    """
    lines = [
        "# Command line",
        "",
        "Made from `fieldmark VERB --help`. Exit codes: 0 done, 1 the work failed, 2 the words are "
        "off, 130 stopped. An error is one line; `--debug` shows where it arose.",
        "",
        "| verb | what it does |",
        "|---|---|",
        *(f"| [`{verb}`]({verb}.md) | {_escape(text)} |" for verb, text in VERBS.items()),
    ]
    return "\n".join(lines) + "\n"


def write_verb(verb: str) -> str:
    """Return the page of one verb: what it does and a table of its options.

    Example:
        >>> page = write_verb("evaluate")
        >>> page.splitlines()[0]
        '# fieldmark evaluate'
        >>> "| `--seeds` | int from 1 | 1 |" in page
        True
    """
    parts = [f"# fieldmark {verb}", ""]
    for name, command in _walk(f"fieldmark {verb}", _load(verb)):
        if name != f"fieldmark {verb}":
            parts += [f"## {name}", ""]
        parts += _describe(name, command)
    return "\n".join(parts).rstrip() + "\n"


def list_options(verb: str) -> set[str]:
    """Return the options of a verb and of its commands.

    Example:
        >>> "--objects-per-class" in list_options("covar")
        True
    """
    commands = [command for _, command in _walk(verb, _load(verb))]
    named = {name for one in commands for param in one.params for name in _names(param)}
    return {name for name in named if name.startswith("--")} | {"--help", "--debug"}


def _load(verb: str) -> Any:
    import typer.main

    return typer.main.get_command(importlib.import_module(f"fieldmark.cli.{verb}").app)


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for child, below in getattr(command, "commands", {}).items():
        yield from _walk(f"{name} {child}", below)


def _describe(name: str, command: Any) -> list[str]:
    children = list(getattr(command, "commands", {}))
    usage = f"{name} COMMAND" if children else " ".join([name, *_usage(command)])
    lines = [*_paragraphs(command.help or ""), "```", usage, "```", ""]
    lines += [f"- [{name} {child}](#{f'{name} {child}'.replace(' ', '-')})" for child in children]
    if command.params and not children:
        lines += ["| option | takes | default | what |", "|---|---|---|---|"]
        context = command.make_context(name, [], resilient_parsing=True)
        lines += [_describe_option(param, context) for param in command.params if not param.hidden]
    return [*lines, ""]


def _usage(command: Any) -> list[str]:
    words = [param.name.upper() for param in command.params if not _is_option(param)]
    needed = [param for param in command.params if _is_option(param) and param.required]
    return words + [f"{param.opts[0]} ..." for param in needed] + ["[OPTIONS]"]


def _describe_option(param: Any, context: Any) -> str:
    names = ", ".join(f"`{name}`" for name in _names(param))
    return (
        f"| {names} | {_takes(param, context)} | {_default(param)} | {_escape(param.help or '')} |"
    )


def _names(param: Any) -> list[str]:
    return [*param.opts, *param.secondary_opts] if _is_option(param) else [param.name.upper()]


def _is_option(param: Any) -> bool:
    return bool(param.param_type_name == "option")


def _takes(param: Any, context: Any) -> str:
    if getattr(param, "is_flag", False):
        return "flag"
    words = param.display_type(context).strip("<>").removesuffix(" range")
    many = words.startswith("list[")
    words = words.removeprefix("list[").removesuffix("]") if many else words
    ends = [f"from {param.min:g}"] if getattr(param, "min", None) is not None else []
    ends += [f"to {param.max:g}"] if getattr(param, "max", None) is not None else []
    return _escape(" ".join([words.replace("|", ", "), *ends])) + (", repeatable" if many else "")


def _default(param: Any) -> str:
    if param.required:
        return "**needed**"
    if getattr(param, "is_flag", False):
        return "on" if param.default else "off"
    if param.default in (None, [], ()) or callable(param.default):
        return ""
    return _escape(str(param.default))


def _paragraphs(text: str) -> list[str]:
    whole = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip())]
    return [line for part in whole for line in (_escape(part), "")]


def _escape(text: str) -> str:
    """Escape Markdown, and show what is typed (options, files, <words>) as code."""
    plain, *rest = _SEEN_AS_CODE.split(" ".join(text.split()))
    shown = [
        f"`{word.strip('`')}`".replace("|", r"\|") if i % 2 == 0 else _escape_plain(word)
        for i, word in enumerate(rest)
    ]
    return _escape_plain(plain) + "".join(shown)


def _escape_plain(text: str) -> str:
    return re.sub(r"([\\|*_`\[\]<>])", r"\\\1", text)
