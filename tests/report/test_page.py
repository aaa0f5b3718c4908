"""The page: one well-formed file, nothing from elsewhere, no data taken for markup."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

from fieldmark.core.atomic import hash_file
from fieldmark.core.errors import InputError
from fieldmark.core.records import ResultRow, read_rows, start_run
from fieldmark.core.sealed import read_sealed_json, write_sealed_json
from fieldmark.report import summarise, write_figure_png, write_page
from tests.report.sample import build_sample

NASTY = '<script>alert("x")</script>'
VOID = {"meta", "link", "img", "br"}


class Walker(HTMLParser):
    """Walk a page, hold every tag to its end, and gather what the tests ask for."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> ends nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in {"script", "style"}:
            self.texts.append(data)

    def find(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def walk(html: str) -> Walker:
    walker = Walker()
    walker.feed(html)
    walker.close()
    assert walker.open == []
    return walker


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = build_sample(tmp_path_factory.mktemp("run") / "out")
    return write_page(out).read_text(encoding="utf-8")


def test_every_part_is_there(page: str) -> None:
    walker = walk(page)
    headings = re.findall(r"<h2>(.+?)</h2>", page)
    assert headings == [
        "Results",
        "Accuracy by group",
        "What the encoder was shown",
        "Training",
        "Nearest neighbours",
        "Map of embeddings",
        "How it was made",
        "What was not tested",
    ]
    assert "Worst-group accuracy on unseen objects: native 0.36 → BAP 0.71" in walker.text
    assert "Left out of this page" not in walker.text
    for words in ("packaged:dinov2-small", "GPL-2", "Encoders of more than 22 million weights."):
        assert words in walker.text
    assert "made-up figures" in walker.text


def test_nothing_comes_from_elsewhere(page: str) -> None:
    walker = walk(page)
    for tag, attributes in walker.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in {"src", "href", "data", "action", "poster", "srcset"}:
                assert value.startswith(("data:", "#")), (tag, name, value)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert [tag for tag, _ in walker.tags if tag in {"iframe", "object", "embed", "base"}] == []


def test_only_the_pages_own_script_may_run(page: str) -> None:
    assert len(walk(page).find("script")) == 1
    script = page.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in page


def test_a_reader_without_eyes_finds_the_way(page: str) -> None:
    walker = walk(page)
    ids = [attributes["id"] for _, attributes in walker.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in walker.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set(attributes.get(name, "").split()) <= set(ids)
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    assert all(image.get("alt") for image in walker.find("img"))
    drawings = walker.find("svg")
    assert all(d.get("role") == "img" or d.get("aria-hidden") == "true" for d in drawings)
    levels = [int(tag[1]) for tag, _ in walker.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert len(walker.find("caption")) == len(walker.find("table"))
    assert walker.find("html") == [{"lang": "en"}]


def test_figures_of_the_table_sort_by_number_and_undefined_has_its_count(page: str) -> None:
    cells = re.findall(r'<td class="figure" data-sort="([^"]*)">(.*?)</td>', page)
    assert all(float(number) >= 0 for number, _ in cells if number)
    undefined = [body for number, body in cells if not number]
    assert undefined
    assert all("n = 0" in body for body in undefined)
    assert "[0.276, 0.448]" in page


def test_the_figures_can_be_saved(page: str) -> None:
    (link,) = [a for a in walk(page).find("a") if "download" in a]
    text = base64.b64decode(link["href"].split(",")[1]).decode()
    assert text.startswith("Method,Head,Split,Data set,Correlation,Metric,value,value sd")
    assert len(text.splitlines()) == 130


def test_markup_in_the_data_shows_as_text(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = start_run(out, "demo", arguments={NASTY: NASTY}, seeds=[0])
    run.data = {NASTY: [NASTY, {"a": NASTY}]}
    row = {"suite": NASTY, "dataset": NASTY, "split": NASTY, "head": NASTY, "value": 0.5}
    for metric in ("acc_wg", f"acc_y:{NASTY}_background:{NASTY}", NASTY):
        for method in (NASTY, "native"):
            run.add([ResultRow(**row, method=method, metric=metric)])  # type: ignore[arg-type]
    _write_nasty_parts(out / "page")
    html = write_page(run.finish()).read_text(encoding="utf-8")
    walker = walk(html)
    assert len(walker.find("script")) == 1
    assert '<script>alert("' not in html
    assert walker.text.count(NASTY) > 20
    alts = [image["alt"] for image in walker.find("img")]
    assert f"{NASTY} on {NASTY}, same object" in alts
    assert NASTY in alts


def _write_nasty_parts(folder: Path) -> None:
    from PIL import Image

    (folder / "composites").mkdir(parents=True)
    Image.new("RGBA", (8, 8), (9, 9, 9, 99)).save(folder / "composites" / "a.png")
    item = {"image": "composites/a.png", "label": NASTY, "attribute": NASTY}
    point = {"x": 0, "y": 0, "label": NASTY, "attribute": NASTY}
    values = {
        "composites.json": {"a.png": NASTY},
        "map.json": [{"encoder": NASTY, "points": [point]}],
        "neighbours.json": [{"query": item, NASTY: [item]}],
        "summary.json": {
            "title": NASTY,
            "lead": NASTY,
            "sentences": [NASTY],
            "rare_groups": [NASTY],
            "not_tested": [NASTY],
        },
        "card.json": {NASTY: NASTY},
    }
    for name, value in values.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    loss = {"method": NASTY, "step": 0, "epoch": 0, "loss": 1.0}
    (folder / "loss.jsonl").write_text(json.dumps(loss), encoding="utf-8")


def test_what_is_missing_is_left_out_and_said(tmp_path: Path) -> None:
    out = build_sample(tmp_path / "out", seeds=1, page=False)
    walker = walk(write_page(out).read_text(encoding="utf-8"))
    for words in ("page/composites", "page/loss.jsonl", "page/neighbours.json", "page/map.json"):
        assert f"no {words}" in walker.text or f"in {words}" in walker.text
    assert "Nearest neighbours: no" in walker.text
    assert [a["href"] for a in walker.find("a") if a["href"].startswith("#")] == [
        "#main",
        "#results",
        "#groups",
        "#making",
        "#untested",
    ]


@pytest.mark.parametrize("remove", [False, True])
def test_a_run_without_figures_says_so(tmp_path: Path, *, remove: bool) -> None:
    out = build_sample(tmp_path / "out", page=False, figures=False)
    if remove:
        (out / "results.jsonl").unlink()
    walker = walk(write_page(out).read_text(encoding="utf-8"))
    assert "No worst-group accuracy was recorded" in walker.text
    assert "Everything: this run holds no figures." in walker.text
    assert "Figures: results.jsonl holds none." in walker.text


def test_an_unfinished_run_has_no_page(tmp_path: Path) -> None:
    start_run(tmp_path / "out", "demo", arguments={})
    with pytest.raises(InputError, match="unfinished"):
        write_page(tmp_path / "out")
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_group_that_one_method_lacks_is_drawn_for_the_others(tmp_path: Path) -> None:
    out = build_sample(tmp_path / "out", seeds=1, page=False)
    path = out / "results.jsonl"
    gone = ('"method": "bap"', "acc_y:bird_background:water")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not all(word in line for word in gone)))
    manifest = read_sealed_json(out / "run.json")
    write_sealed_json(out / "run.json", {**manifest, "results_sha256": hash_file(path)})
    html = write_page(out).read_text(encoding="utf-8")
    walk(html)
    drawing = html.split('<title id="group-0-1-title">Accuracy: bird on water')[1]
    words = drawing.split("</desc>")[0]
    assert "native 0.4" in words
    assert "BAP" not in words


def test_an_image_that_is_no_image_is_said_in_its_place(tmp_path: Path) -> None:
    out = build_sample(tmp_path / "out", seeds=1)
    (out / "page/composites/00.png").write_bytes(b"no picture")
    (out / "page/thumbs/0-query.png").unlink()
    walker = walk(write_page(out).read_text(encoding="utf-8"))
    assert walker.text.count("image missing") == 2
    assert {"aria-label": "bird on land: image missing"}.items() <= walker.find("span")[
        [s.get("class") for s in walker.find("span")].index("gone")
    ].items()


def test_the_page_is_small_enough_to_send(page: str) -> None:
    assert len(page) < 1_000_000


def test_templates_trust_no_data() -> None:
    for file in (resources.files("fieldmark.report") / "templates").iterdir():
        source = file.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe|autoescape|Markup", source), file.name


def test_the_report_loads_neither_torch_nor_matplotlib() -> None:
    code = "import fieldmark.report, sys; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_still_picture(tmp_path: Path) -> None:
    from PIL import Image

    out = build_sample(tmp_path / "out", seeds=2, page=False)
    summaries = summarise(read_rows(out))
    path = write_figure_png(summaries, tmp_path / "a.png", methods=("native", "bap"))
    with Image.open(path) as image:
        assert image.size == (1440, 672)
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50
    assert write_figure_png(summaries, tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_a_still_picture_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no accuracy of the worst group"):
        write_figure_png((), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
