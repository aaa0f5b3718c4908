"""Text of a record never becomes markup of its page, whichever text it is.

Texts and keys all over a record are spoilt in turn, not only those that are known to be names, and
what the page does with them is looked at with a parser of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fieldmark.core.errors import InputError
from fieldmark.core.records import RUN, ResultRow, start_run
from fieldmark.report.page import write_page
from fieldmark.report.sweep_page import write_sweep_page
from tests.fuzz.pages import NOTES, PAGES, RECORDS, prepare_run
from tests.fuzz.pictures import draw, save

# The mark is looked for outside of texts: as an element, an attribute, a style, a script.
NASTY = (
    "<zap>",
    "</title></style></script><zap a=1>",
    "\"><zap onload=zap(1) x='",
    "'><zap onload='zap(1)",
    "javascript:zap(1)",
    "--><zap><!--",
    "]]><zap>",
    "{{ 7 * 7 }}{% raw %}<zap>",
    "&lt;zap&gt;&#x3c;zap>",
    "<svg/onload=zap(1)><zap>",
    "` onmouseover=zap(1) `<zap>",
    "\u202e<zap>\u2028<zap>",
)


class Inspector(HTMLParser):
    """Collect what a page is made of: elements, attributes, scripts, addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.events: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.styles: list[str] = []
        self.code: list[str] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self._inside = tag
        for name, value in attrs:
            if name.startswith("on"):
                self.events.append(name)
            if name in ("src", "srcset", "action", "xlink:href", "srcdoc", "data"):
                self.loaded.append(value or "")
            if name == "href":
                self.links.append(value or "")
            if name == "style":
                self.styles.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        (self.code if self._inside in ("script", "style") else self.words).append(data)


def check(page: str) -> Inspector:
    """Assert that nothing nasty is markup, and that nothing is loaded from elsewhere."""
    found = Inspector(page)
    assert "zap" not in found.elements
    assert not found.events
    assert not [one for one in found.code if "zap" in one]
    assert all(address.startswith("data:image/") for address in found.loaded)
    assert all(address.startswith(("data:", "#", "https://")) for address in found.links)
    assert not [style for style in found.styles if "zap" in style]
    assert found.elements.count("script") <= 2
    return found


def list_texts(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the holder and the key of every text below, and of every key that is one."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        if isinstance(key, str) or isinstance(value[key], str):
            yield value, key
        yield from list_texts(value[key])


def spoil_some(record: Any, *, most: int) -> Iterator[Any]:
    """Yield copies of a record, one of its texts or keys made nasty in each, evenly spread."""
    count = len(list(list_texts(record)))
    for number, place in enumerate(range(0, count, max(1, count // most))):
        copy = json.loads(json.dumps(record))
        holder, key = list(list_texts(copy))[place]
        nasty = NASTY[number % len(NASTY)]
        if isinstance(holder[key], str):
            holder[key] = f"{holder[key]}{nasty}"
        else:
            holder[f"{key}{nasty}"] = holder[key]
        yield copy


def spoil_all(record: Any, nasty: str, *, spared: frozenset[str]) -> Any:
    """Return a copy of a record whose texts are all nasty but those of some keys."""
    if isinstance(record, dict):
        return {
            key: value if key in spared else spoil_all(value, nasty, spared=spared)
            for key, value in record.items()
        }
    if isinstance(record, list):
        return [spoil_all(one, nasty, spared=spared) for one in record]
    return f"{record}{nasty}" if isinstance(record, str) else record


@pytest.mark.parametrize("name", PAGES)
def test_no_text_of_a_record_becomes_markup(name, tmp_path):
    prepare_run(tmp_path, name=name)
    record = json.loads((RECORDS / f"{name}.json").read_text())
    tried = shown = 0
    for spoilt in spoil_some(record, most=16):
        (tmp_path / f"{name}.json").write_text(json.dumps(spoilt))
        tried += 1
        try:
            page = PAGES[name](tmp_path)
        except InputError:
            continue
        shown += 1
        check(page.read_text(encoding="utf-8"))
    assert shown > tried // 4


@pytest.mark.parametrize("nasty", NASTY)
def test_names_that_are_markup_show_as_they_are(nasty, tmp_path):
    prepare_run(tmp_path, name="discovery")
    record = json.loads((RECORDS / "discovery.json").read_text())
    record["candidates"][0]["words"][0]["word"] = nasty
    record["dataset"] = nasty
    (tmp_path / "discovery.json").write_text(json.dumps(record))
    pictures = json.loads((RECORDS / "discovery-pictures.json").read_text())
    spoilt = spoil_all(pictures, nasty, spared=frozenset({"whole", "crop"}))
    (tmp_path / "page" / "pictures.json").write_text(json.dumps(spoilt))
    page = PAGES["discovery"](tmp_path).read_text(encoding="utf-8")
    found = check(page)
    assert nasty.split()[0][:5] in "".join(found.words)


def _write_manifest(folder: Path, nasty: str) -> None:
    run = start_run(folder, "demo", arguments={"model": nasty, nasty: "m"}, seeds=[0])
    run.data = {nasty: {"licence": nasty, "version": nasty}}
    run.weights = {nasty: {"licence": nasty}}
    refused = [{"method": nasty, "reason": nasty, "head": nasty, "setting": nasty}]
    run.notes = {**NOTES, "refused": refused, nasty: nasty}
    rows = (
        ResultRow(
            suite=nasty, dataset=nasty, split=f"test{nasty}", encoder=nasty, method=method,
            head=nasty, setting=nasty, metric=metric, group=group, value=0.5, count=9,
        )
        for method in (nasty, "native")
        for metric, group in (("acc_avg", None), ("acc_wg", None), (f"acc_y:{nasty}", 0))
    )  # fmt: skip
    run.add(rows)
    run.finish()


@pytest.mark.parametrize("write", [write_page, write_sweep_page])
@pytest.mark.parametrize("nasty", NASTY)
def test_no_text_of_a_manifest_a_row_or_a_part_becomes_markup(
    write: Callable[[Path], Path], nasty: str, tmp_path: Path
) -> None:
    _write_manifest(tmp_path / "run", nasty)
    parts = tmp_path / "run" / "page"
    (parts / "composites").mkdir(parents=True)
    (parts / "composites" / "a.png").write_bytes(save(draw("RGB"), "PNG", {}))
    one = {"image": "composites/a.png", "label": nasty, "attribute": nasty, "similarity": 0.5}
    point = {"x": 0.0, "y": 1.0, "label": nasty, "attribute": nasty, "split": nasty}
    loss = {"method": nasty, "step": 1, "loss": 0.5, "learning_rate": 0.1}
    contents = {
        "composites.json": {"a.png": nasty},
        "map.json": [{"encoder": nasty, "points": [point, {**point, "x": 1.0}]}],
        "neighbours.json": [{"query": one, "before": [one], nasty: [one]}],
        "summary.json": {key: [nasty] for key in ("sentences", "rare_groups", "not_tested")}
        | {"title": nasty, "lead": nasty},
        "card.json": {nasty: nasty, "licences": [nasty], "citation": nasty},
        "loss.jsonl": loss,
    }
    for file, content in contents.items():
        (parts / file).write_text(json.dumps(content) + "\n")
    found = check(write(tmp_path / "run").read_text(encoding="utf-8"))
    assert (tmp_path / "run" / RUN).is_file()
    assert "zap" in "".join(found.words)


def test_the_inspector_sees_what_it_looks_for():
    for bad in (
        "<p><zap>",
        "<p onclick=x>",
        "<script>zap()</script>",
        "<a href='javascript:zap(1)'>",
    ):
        with pytest.raises(AssertionError):
            check(bad)
    check("<p title='&lt;zap&gt;'>&lt;zap&gt;</p>")
