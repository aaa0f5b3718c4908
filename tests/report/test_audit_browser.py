"""The page of an audit in a real browser, as written, under its own policy, with real keys."""

from __future__ import annotations

import json

import pytest

from fieldmark.report.audit_page import write_audit_page
from tests.report.audit_browser import BROWSER, open_browser
from tests.report.audit_sample import build_audit, build_bare_audit, edit_values

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="needs chromium: apt-get install chromium (tests/QUARANTINES.md)"
)
# An element that is wider than the window, unless it scrolls inside a box of its own.
WIDE = """[...document.body.querySelectorAll('*')].filter((one) => {
  const box = one.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1)
    && !one.closest('.unseen, .skip')
    && (one.matches('.scroll, pre') || !one.closest('.scroll, pre'));
}).map((one) => one.outerHTML.slice(0, 80))"""
LOOK = f"""(() => {{
  for (const one of document.querySelectorAll('details')) one.open = true;
  return {{
    inner: innerWidth, page: document.documentElement.scrollWidth, wide: {WIDE},
    broken: [...document.images].filter((one) => !one.naturalWidth).length,
    silent: [...document.images].filter((one) => !one.alt).length,
    images: document.images.length, zooms: document.querySelectorAll('button.zoom').length,
    nameless: [...document.querySelectorAll('button, select, a')].filter((one) =>
      !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length)).length,
    small: [...document.querySelectorAll('svg.axis text')].filter((one) =>
      parseFloat(getComputedStyle(one).fontSize) < 9).length,
  }};
}})()"""
PAPER = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
SHOWN = """[...document.querySelectorAll('[data-class]')].filter((one) => one.offsetParent)
  .map((one) => one.dataset.class)"""
DIALOG = "document.querySelector('dialog.viewer')"


# The least contrast of any text with what lies behind it, as WCAG 2 computes it.
CONTRAST = """(() => {
  const read = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (colour) => colour.slice(0, 3).map((one) => one / 255)
    .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (node) => {
    const colour = read(getComputedStyle(node).backgroundColor);
    return colour[3] === 0 ? (node.parentElement ? behind(node.parentElement) : [255, 255, 255])
      : colour;
  };
  const told = [...document.body.querySelectorAll('*')].filter((one) =>
    !one.matches('script, option') && one.getClientRects().length
    && [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  return told.map((one) => {
    const style = getComputedStyle(one);
    const colour = one.namespaceURI.includes('svg') ? style.fill : style.color;
    const [high, low] = [light(read(colour)), light(behind(one))].sort((a, b) => b - a);
    return [(high + 0.05) / (low + 0.05), one.tagName, one.textContent.trim().slice(0, 40)];
  }).reduce((least, one) => one[0] < least[0] ? one : least);
})()"""


def add_odd_names(values):
    long = "an unbrokenly long name " + "x" * 180
    values["accuracy"][0]["groups"][0]["attribute"] = long
    values["telling"][0]["id"] = long
    values["telling"][0]["label"] = "\N{BIRD}" * 60
    values["findings"][0]["title"] = "y" * 300
    values["next"][0]["command"] = "fieldmark " + "z" * 400
    values["encoders"][0]["uri"] = "u" * 300
    values["left_out"][0]["reason"] = "w" * 200
    values["dataset"] = "d" * 200


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("browser") / "profile") as tab:
        yield tab


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = build_audit(tmp_path_factory.mktemp("audit"), encoders=2, images=4)
    return write_audit_page(out)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    out = build_audit(tmp_path_factory.mktemp("odd"), encoders=2, images=2)
    return write_audit_page(edit_values(out, add_odd_names))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_window(tab, page, width, scheme):
    tab.open(page, width=width, scheme=scheme)
    found = tab.ask(LOOK)
    assert tab.errors == []
    assert (found["inner"], found["page"], found["wide"]) == (width, width, [])
    assert (found["broken"], found["silent"], found["nameless"], found["small"]) == (0, 0, 0, 0)
    assert found["images"] == found["zooms"] > 40
    was = sum(tab.ask(PAPER)) / 765
    tab.click("#theme")
    now = sum(tab.ask(PAPER)) / 765
    assert (was < 0.2, now > 0.9) == ((True, True) if scheme == "dark" else (False, False))


def test_every_text_stands_out_from_what_lies_behind_it(tab, page):
    for scheme in ("light", "dark"):
        tab.open(page, width=1280, scheme=scheme)
        assert tab.ask(CONTRAST)[0] >= 4.5, tab.ask(CONTRAST)


def test_a_page_that_was_turned_dark_is_printed_dark_on_white(tab, page):
    tab.open(page, width=1280)
    tab.click("#theme")
    assert sum(tab.ask(PAPER)) < 150
    tab.send("Emulation.setEmulatedMedia", media="print")
    assert tab.ask(PAPER) == [255, 255, 255]
    assert tab.ask(CONTRAST)[0] >= 4.5, tab.ask(CONTRAST)
    tab.send("Emulation.setEmulatedMedia", media="")


def test_on_a_phone_the_figures_of_each_table_are_seen_without_scrolling(tab, page):
    tab.open(page, width=360)
    hidden = """[...document.querySelectorAll('table.audit')].map((one) => {
      const figure = one.querySelector('td.figure');
      return [one.caption.textContent.trim(), figure ? figure.getBoundingClientRect().right : 0];
    }).filter((one) => one[1] > innerWidth)"""
    assert tab.ask(hidden) == []


@pytest.mark.parametrize("width", [360, 1280])
def test_very_long_names_do_not_widen_the_page(tab, odd, width):
    tab.open(odd, width=width)
    found = tab.ask(LOOK)
    assert (found["page"], found["wide"], tab.errors) == (width, [], [])


def test_the_bare_page_works_too(tab, tmp_path):
    tab.open(write_audit_page(build_bare_audit(tmp_path)), width=360)
    assert tab.ask(LOOK)["page"] == 360
    assert tab.errors == []


def test_the_filter_hides_other_classes_and_says_what_is_shown(tab, page):
    tab.open(page, width=1280)
    every = tab.ask(SHOWN)
    assert set(every) == {"0", "1"}
    tab.ask("document.getElementById('class-filter').focus()")
    tab.press("ArrowDown")
    tab.wait("document.getElementById('class-filter').value === '0'")
    shown = tab.ask(SHOWN)
    assert shown == [one for one in every if one == "0"]
    status = tab.ask("document.getElementById('filter-shown').textContent")
    rows = tab.ask("document.querySelectorAll('tr[data-class=\"0\"]').length")
    total = tab.ask("document.querySelectorAll('tr[data-class]').length")
    cards = len(shown) - rows
    assert status == (
        f"{rows} of {total} table rows and {cards} of {len(every) - total} picture cards shown"
    )
    live = tab.ask("document.getElementById('filter-shown').getAttribute('aria-live')")
    assert live == "polite"
    tab.press("ArrowUp")
    tab.wait("document.getElementById('class-filter').value === ''")
    assert tab.ask(SHOWN) == every


def test_tables_sort_by_their_numbers_and_the_plot_has_no_button(tab, page):
    tab.open(page, width=1280)
    read = """[...document.querySelector('table.plotted').tBodies[0].rows]
      .map((row) => Number(row.cells[3].dataset.sort))"""
    assert tab.ask("document.querySelector('table.plotted th.dots button')") is None
    tab.click("table.plotted thead th:nth-child(4) button")
    values = tab.ask(read)
    assert values == sorted(values)
    assert len(set(values)) > 4
    tab.click("table.plotted thead th:nth-child(4) button")
    assert tab.ask(read) == values[::-1]
    sort = "document.querySelector('table.plotted thead th:nth-child(4)').ariaSort"
    assert tab.ask(sort) == "descending"


def test_a_picture_is_enlarged_by_keys_alone(tab, page):
    tab.open(page, width=1280)
    tab.ask("document.querySelectorAll('button.zoom')[1].focus()")
    tab.press("Enter")
    tab.wait(f"{DIALOG} && {DIALOG}.open")
    source = "document.querySelectorAll('button.zoom img')[{}].src"
    shown = f"{DIALOG}.querySelector('img').src"
    count = tab.ask("document.querySelectorAll('button.zoom').length")
    assert tab.ask(f"{shown} === {source.format(1)}")
    assert tab.ask(f"{DIALOG}.querySelector('img').alt") == "bird on land"
    assert tab.ask(f"{DIALOG}.querySelector('.controls span').textContent") == f"2 of {count}"
    tab.press("ArrowRight")
    assert tab.ask(f"{shown} === {source.format(2)}")
    for _ in range(3):
        tab.press("ArrowLeft")
    assert tab.ask(f"{shown} === {source.format(count - 1)}")
    box = tab.ask(f"(({{right, bottom}}) => [right, bottom])({DIALOG}.getBoundingClientRect())")
    assert box[0] <= 1280
    assert box[1] <= 900
    tab.press("Escape")
    tab.wait(f"!{DIALOG}.open")
    assert tab.ask("document.activeElement === document.querySelectorAll('button.zoom')[1]")
    assert tab.errors == []


def test_only_pictures_of_the_chosen_class_are_paged_through(tab, page):
    tab.open(page, width=360)
    tab.ask("document.getElementById('class-filter').focus()")
    tab.press("ArrowDown")
    tab.wait("document.getElementById('class-filter').value === '0'")
    tab.click(".images .card:not([hidden]) button.zoom")
    tab.wait(f"{DIALOG} && {DIALOG}.open")
    count = int(tab.ask(f"{DIALOG}.querySelector('.controls span').textContent").split()[-1])
    assert count == tab.ask("document.querySelectorAll('[data-class=\"0\"] button.zoom').length")
    tab.click("dialog .controls button", index=2)
    tab.wait(f"!{DIALOG}.open")


def test_a_command_is_copied_and_without_a_clipboard_selected(tab, page):
    tab.open(page, width=1280)
    command = tab.ask("document.querySelector('pre.command code').textContent")
    tab.click(".copying button")
    tab.wait("document.querySelector('.copying span').textContent === 'Copied.'")
    refuse = "Object.defineProperty(navigator, 'clipboard', {value: undefined}); "
    refuse += "document.execCommand = () => false; 1"
    tab.ask(refuse)
    tab.click(".copying button")
    tab.wait("document.querySelector('.copying span').textContent.startsWith('Selected')")
    assert tab.ask("getSelection().toString()") == command


def test_the_tab_key_reaches_every_control_and_the_focus_is_seen(tab, page):
    tab.open(page, width=1280)
    tab.press("Tab")
    assert tab.ask("document.activeElement.className") == "skip"
    assert tab.ask("document.activeElement.getBoundingClientRect().left") >= 0
    reached = set()
    for _ in range(40):
        tab.press("Tab")
        seen = tab.ask("""(() => { const one = document.activeElement;
          return [one.id || one.className || one.tagName,
                  getComputedStyle(one).outlineStyle !== 'none']; })()""")
        assert seen[1], json.dumps(seen)
        reached.add(seen[0])
    assert {"theme", "class-filter", "A", "scroll", "BUTTON"} <= reached
