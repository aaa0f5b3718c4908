"""Every command that the documentation shows is one that can be typed.

Verbs and options are parsed by the verbs' own parsers and their settings by the code that reads
them, without running anything; scripts by the arguments that they declare; targets of make by the
Makefile. What stands for something (`...`, `N`) is put in; no line is passed over.
"""

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.exceptions import TyperException

from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.methods import METHODS as ATTRIBUTIONS
from fieldmark.attribution.protocols import PROTOCOLS
from fieldmark.benchmarks.attribution.faithfulness_request import assign_settings
from fieldmark.benchmarks.budgets import change_budget, find_budget
from fieldmark.benchmarks.methods import METHODS
from fieldmark.benchmarks.suites import SUITES
from fieldmark.cli.bench import _split
from fieldmark.cli.dispatch import VERBS
from fieldmark.cli.settings import read_settings, split_setting
from fieldmark.core.errors import FieldmarkError
from fieldmark.core.registry import look_up
from fieldmark.data.datasets import find_dataset
from fieldmark.discovery.discoverers import DISCOVERERS
from fieldmark.methods.bap.config import METHOD_NAMES, PRESETS, BapConfig
from fieldmark.methods.heads import HEADS
from fieldmark.methods.mitigation.config import MitigationConfig
from fieldmark.methods.mitigation.objectives import MITIGATIONS

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "SECURITY.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *sorted((REPOSITORY / "docs").rglob("*.ipynb")),
]
# What options that take any text accept by name; the parser knows the others.
NAMES: Mapping[str, Mapping[str, Any]] = {
    "bap": {"method": dict.fromkeys(METHOD_NAMES), "preset": PRESETS},
    "demo": {"preset": PRESETS},
    "evaluate": {"head": HEADS},
    "bench": {"suite": SUITES, "methods": METHODS},
    "discover": {"method": DISCOVERERS},
    "mitigate": {"method": MITIGATIONS},
    "explain": {"method": ATTRIBUTIONS},
    "faithfulness": {"methods": ATTRIBUTIONS, "preset": PROTOCOLS},
}
SETTINGS: Mapping[str, Any] = {
    "bap": BapConfig(),
    "demo": BapConfig(),
    "mitigate": MitigationConfig(),
    "explain": AttributionConfig(),
    "faithfulness": AttributionConfig(),
}
# What stands where a verb takes a name without an option, in words that leave it out.
POSITIONS = {"suite": "stamps", "name": "NAME"}
# Verbs that have commands of their own.
NESTED = ("covar", "data")
_FENCE = re.compile(r"^(`{3,}) *\{? *\.?(\w*)[^\n]*\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)((?:    [^\n]*\n)+(?:\n+(?:    [^\n]*\n)+)*)")
_INLINE = re.compile(r"(?<!`)`(?!`)([^`]+)`(?!`)")
_COMMAND = re.compile(r"\bfieldmark +[a-z]|\bpython benchmarks/|\bmake [a-z]")


def read_blocks(path: Path) -> Iterator[tuple[str, bool]]:
    """Give every block, and all words in ticks; the latter may leave out what is needed."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells) + "\n"
    for _, language, block in _FENCE.findall(text):
        if language not in ("python", "math"):
            yield block, True
    rest = _FENCE.sub("", text)
    yield from ((block, True) for block in _INDENTED.findall(rest))
    for words in _INLINE.findall(_INDENTED.sub("", rest)):
        yield " ".join(words.split()), False


def read_commands(path: Path) -> list[tuple[list[str], bool]]:
    """Return every command on a page, as a shell would split it, and whether it is whole."""
    return [
        (command, whole and "..." not in command)
        for block, whole in read_blocks(path)
        for line in block.replace("\\\n", " ").splitlines()
        if _COMMAND.search(line)
        for command in split_line(line)
    ]


def read_fragments(path: Path) -> list[tuple[list[str], bool]]:
    """Return what is options alone, and whether it is a line of a block.

    One word in ticks is the name of an option, which `test_site` looks up.
    """
    return [
        (command, whole)
        for block, whole in read_blocks(path)
        for line in block.replace("\\\n", " ").splitlines()
        if line.lstrip().startswith("--")
        for command in split_line(line)
        if whole or len(command) > 1
    ]


def split_line(line: str) -> Iterator[list[str]]:
    """Split a line into its commands, without prompt, variables and comment.

    Example:
        >>> list(split_line("$ A=1 make docs && fieldmark bap ...  # all"))
        [['make', 'docs'], ['fieldmark', 'bap', '...']]
    """
    text = re.sub(r"^[^`]*[a-z]: (?=fieldmark )", "", line.strip())
    reader = shlex.shlex(text, posix=True, punctuation_chars=";&|()<>")
    reader.whitespace_split, reader.commenters = True, ""
    command: list[str] = []
    for word in reader:
        if word.startswith("#"):
            break
        if set(word) <= set(";&|()"):
            yield from [command] if command else []
            command = []
        elif command or not re.match(r"\w+=|\$$", word):
            command.append(word)
    yield from [command] if command else []


def find_fault(words: Sequence[str], *, whole: bool) -> str | None:
    """Return what is wrong with a command of the documentation, or None."""
    if words[0] == "torchrun" and "fieldmark" in words:
        words = words[words.index("fieldmark") :]
    try:
        if words[0] == "fieldmark":
            return check_verb(words[1:], whole=whole)
    except TyperException as error:
        return error.format_message() or type(error).__name__
    except FieldmarkError as error:
        return str(error)
    if words[0] == "python" and words[1].startswith("benchmarks/"):
        return check_script(words[1], words[2:])
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        return None if words[1] in targets else f"the Makefile has no {words[1]}"
    return "what is this?" if _COMMAND.search(" ".join(words)) else None


@cache
def find_command(verb: str) -> Any:
    return typer.main.get_command(importlib.import_module(f"fieldmark.cli.{verb}").app)


def check_verb(words: Sequence[str], *, whole: bool) -> str | None:
    """Parse a verb and its options by the verb's own parser, as far as it goes without running."""
    verb, *rest = words
    if verb not in VERBS:
        return f"no verb {verb}"
    command = find_command(verb)
    while getattr(command, "commands", None) and (whole or rest):
        if not rest or rest[0] not in command.commands:
            return f"{verb} has no command {rest[:1]}"
        command, rest = command.commands[rest[0]], rest[1:]
    if "--help" in rest or "--list" in rest:
        return None if len(rest) == 1 else f"why {rest}?"
    if rest or whole:
        given = command.make_context(verb, fill_in(command, rest, whole=whole)).params
        check_values(verb, {name: value for name, value in given.items() if value is not None})
    return None


def fill_in(command: Any, words: Sequence[str], *, whole: bool) -> list[str]:
    """Put in what a command leaves out, or names by a letter (`--seeds N`)."""
    options = {name: one for one in command.params for name in one.opts if name.startswith("--")}
    takes = {name: one.bare_type is int for name, one in options.items() if not one.is_flag}
    filled = []
    for before, word in pairwise(["", *words]):
        stands = word == "..." or (word.isupper() and takes.get(before, False))
        if not stands or before in takes:
            filled.append("1" if stands else word)
    if whole:
        return filled
    filled += ["1"] if filled and filled[-1] in takes else []
    missing = [one for one in command.params if one.required and one.opts[0] not in filled]
    bare = [word for before, word in pairwise(["", *filled]) if before not in takes]
    for one in missing:
        if one.opts[0] in takes:
            filled += [one.opts[0], "1"]
        elif all(word in options for word in bare):
            filled.append(POSITIONS.get(one.name, "1"))
    return filled


def check_values(verb: str, given: dict[str, Any]) -> None:
    """Read settings and names as the verb does; what it would refuse raises its own error."""
    for option, known in NAMES.get(verb, {}).items():
        value = given.get(option) or ()
        words = value.split(",") if isinstance(value, str) else value
        if "plugin" not in given or option == "suite":
            for word in set(words) - {"all"}:
                look_up(known, word, kind=option)
    settings = [*given.get("set_", ()), *given.get("settings", ())]
    if verb == "bench":
        change_budget(find_budget(given["budget"]), [_split(word) for word in settings])
    elif verb == "faithfulness":
        of_protocol, settings = assign_settings(settings)
        read_settings(PROTOCOLS[given["preset"]], file=None, given=of_protocol)
    elif verb == "data" and settings and given["name"] != "NAME":
        for name, _ in map(split_setting, settings):
            look_up(find_dataset(given["name"]).options, name, kind="option")
    if verb in SETTINGS:
        read_settings(SETTINGS[verb], file=None, given=settings)


@cache
def read_script_options(name: str) -> frozenset[str]:
    tree = ast.parse((REPOSITORY / name).read_text(encoding="utf-8"))
    return frozenset(
        str(call.args[0].value)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in ("add_argument", "add_parser")
        and isinstance(call.args[0], ast.Constant)
    ) | {"--help"}


def check_script(name: str, words: Sequence[str]) -> str | None:
    if not (REPOSITORY / name).is_file():
        return f"no file {name}"
    unknown = [one for one in words if one[:2] == "--" and one not in read_script_options(name)]
    return f"{name} has no {unknown}" if unknown else None


def list_heads() -> list[tuple[str, ...]]:
    """Return every verb and command, as it is typed."""
    below = {verb: getattr(find_command(verb), "commands", None) or [None] for verb in VERBS}
    return [
        ("fieldmark", verb, *([child] if child else []))
        for verb, children in below.items()
        for child in children
    ]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_every_command_can_be_typed(path: Path) -> None:
    found = [(words, find_fault(words, whole=whole)) for words, whole in read_commands(path)]
    assert [(" ".join(words), fault) for words, fault in found if fault] == []


@pytest.mark.parametrize(
    "path", [page for page in PAGES if read_fragments(page)], ids=lambda path: path.name
)
def test_options_by_themselves_fit_a_verb_of_their_page(path: Path) -> None:
    """A line of options stands for the page's commands with these added; words for any verb."""
    commands = [words for words, _ in read_commands(path) if words[0] == "fieldmark"]
    heads = {tuple(words[:3] if words[1] in NESTED else words[:2]) for words in commands}
    unfit = {
        " ".join(words): faults
        for words, is_line in read_fragments(path)
        for known in [sorted(heads) if is_line else list_heads()]
        if all(faults := [find_fault([*head, *words], whole=False) for head in known])
    }
    assert unfit == {}


def test_commands_are_found_wherever_they_stand(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Say `make docs` or\n\n    A=1 fieldmark bap --model M \\\n        --out O  # so\n\n"
        "```text\n$ fieldmark embed ... && python benchmarks/cci.py\n```\n\n"
        "```python\nfrom fieldmark import x\n```\n"
    )
    assert sorted(" ".join(words) for words, _ in read_commands(page)) == [
        "fieldmark bap --model M --out O",
        "fieldmark embed ...",
        "make docs",
        "python benchmarks/cci.py",
    ]
    assert sum(len(read_commands(page)) for page in PAGES) > 150


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("fieldmark bop --out O", "no verb bop"),
        ("fieldmark covar made --out O", "covar has no command"),
        ("fieldmark embed --model M --data D", "Missing option '--out'"),
        ("fieldmark embed --models M ...", "No such option"),
        ("fieldmark evaluate --seeds 0 ...", "greater than or equal to 1"),
        ("fieldmark evaluate --head probe ...", "unknown head"),
        ("fieldmark bap --set epoch=1 ...", "unknown setting"),
        ("fieldmark bench waterbird --out O", "unknown suite"),
        ("fieldmark data build stamps --out O --set size_=1", "unknown option"),
        ("python benchmarks/cci.py --image 3", "has no"),
        ("python benchmarks/none.py", "no file"),
        ("make doc", "the Makefile has no doc"),
    ],
)
def test_a_command_that_cannot_be_typed_is_seen(line: str, problem: str) -> None:
    (words,) = split_line(line)
    assert problem in str(find_fault(words, whole="..." not in words))
