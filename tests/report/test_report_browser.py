"""The HTML report in a real browser: laid out, coloured, and on paper."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from report_samples import BARE, FAILING, PARTLY, PASSING, UNJUDGED, make_hostile_report

from swin_deploy.report.html import render_html

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"needs a browser: none of {', '.join(NAMES)} is on PATH"
)
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DARK = "--blink-settings=preferredColorScheme=0"
WIDTHS = (1200, 390)
# Asked of a copy of the page; the report itself has no script.
MEASURE = """<script>
const box = (e) => e.getBoundingClientRect();
const all = (what) => [...document.querySelectorAll(what)];
const style = (what) => getComputedStyle(document.querySelector(what));
parent.postMessage(JSON.stringify({
  name: window.name,
  width: innerWidth,
  overflow: document.documentElement.scrollWidth - innerWidth,
  outside: all("section, figure, .verdict, dl").filter((e) => box(e).right > innerWidth + 1).length,
  flat: all("svg").filter((e) => !(box(e).width > 40 && box(e).height > 8)).length,
  charts: all(".drift svg").length,
  lines: all(".drift polyline.hop").filter((e) => box(e).width > 40).length,
  beyond: all(".drift .beyond").filter((e) => box(e).width > 3).length,
  bars: all(".bar rect:not(.track)").filter((e) => box(e).width > 0).length,
  whiskers: all("line.whisker").length,
  pictures: all("img").filter((e) => e.complete && e.naturalWidth > 0).length,
  head: all(".stacked thead").filter((e) => box(e).height > 0).length,
  verdict: style(".verdict").backgroundColor,
  page: style("body").backgroundColor,
}), "*");
</script></body>"""
# A window is never narrower than 500 pixels; a frame is as narrow as a phone.
FRAME = """<!DOCTYPE html><meta name="color-scheme" content="light dark"><body><script>
addEventListener("message", (event) => {
  document.body.append(Object.assign(document.createElement("output"), {textContent: event.data}));
});
</script>FRAMES</body>"""


def browse(tmp_path: Path, page: str, *options: str) -> str:
    path = tmp_path / "page.html"
    path.write_text(page)
    return open_page(path, *options)


def open_page(path: Path, *options: str) -> str:
    assert BROWSER is not None
    command = [BROWSER, *QUIET, f"--user-data-dir={path.parent / 'profile'}", *options]
    command.append(path.as_uri())
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def measure(folder: Path, pages: dict[str, str], width: int, *options: str) -> dict[str, dict]:
    """What the browser says of each page, in a frame of its own."""
    frames = ""
    for name, page in pages.items():
        (folder / f"{name}.html").write_text(page.replace("</body>", MEASURE))
        frames += f'<iframe name="{name}" src="{name}.html" width="{width}" height="900"></iframe>'
    path = folder / "frames.html"
    path.write_text(FRAME.replace("FRAMES", frames))
    text = open_page(path, "--window-size=1400,1000", "--dump-dom", *options)
    found = [json.loads(html.unescape(one)) for one in re.findall("<output>(.*?)</output>", text)]
    assert {one["name"] for one in found} == set(pages), "a page was not laid out"
    return {one["name"]: one for one in found}


LAID_OUT = {"failing": FAILING, "hostile": make_hostile_report(), "bare": BARE}


@pytest.fixture(scope="module", params=WIDTHS)
def laid_out(request, tmp_path_factory):
    pages = {name: render_html(report) for name, report in LAID_OUT.items()}
    return request.param, measure(tmp_path_factory.mktemp("pages"), pages, request.param)


@pytest.mark.parametrize("name", LAID_OUT)
def test_nothing_is_wider_than_the_window(laid_out, name):
    width, found = laid_out
    assert found[name]["width"] == width
    assert found[name]["overflow"] <= 0
    assert found[name]["outside"] == 0
    assert found[name]["flat"] == 0


def test_charts_and_pictures_are_drawn(laid_out):
    width, found = laid_out[0], laid_out[1]["failing"]
    assert found["charts"] == 3
    assert found["lines"] == 3
    assert found["beyond"] > 3
    assert found["bars"] > 10
    assert found["whiskers"] == 3
    assert found["pictures"] == 2
    assert (found["head"] == 0) is (width < 640)  # rows are lists on a phone


def test_the_measure_finds_what_is_wider(tmp_path):
    wide = '<figure style="width: 2000px"><svg height="0"></svg></figure><dl'
    page = render_html(BARE).replace("<dl", wide, 1)
    found = measure(tmp_path, {"wide": page}, 390)["wide"]
    assert found["overflow"] > 1000
    assert (found["outside"], found["flat"]) == (1, 1)


COLOURS = {
    "light": ((), {"good": "rgb(233, 247, 237)", "bad": "rgb(253, 236, 236)",
                   "warn": "rgb(255, 246, 224)"}, "rgb(255, 255, 255)"),
    "dark": ((DARK,), {"good": "rgb(19, 40, 26)", "bad": "rgb(51, 24, 25)",
                       "warn": "rgb(46, 37, 16)"}, "rgb(18, 22, 27)"),
}  # fmt: skip


@pytest.mark.parametrize("scheme", COLOURS)
def test_the_banner_has_the_colour_of_the_verdict(scheme, tmp_path):
    options, panels, page = COLOURS[scheme]
    reports = {"good": PASSING, "bad": FAILING, "warn": UNJUDGED}
    pages = {kind: render_html(report) for kind, report in reports.items()}
    found = measure(tmp_path, pages, 800, *options)
    assert {kind: one["verdict"] for kind, one in found.items()} == panels
    assert {one["page"] for one in found.values()} == {page}


@pytest.mark.parametrize(
    ("width", "options", "bar", "line"),
    [
        pytest.param(1200, (), (198, 40, 40), (47, 111, 183), id="light"),
        pytest.param(390, (DARK,), (255, 123, 114), (98, 160, 228), id="dark, phone"),
    ],
)
def test_a_screenshot_shows_verdict_and_charts(width, options, bar, line, tmp_path):
    shot = tmp_path / "shot.png"
    browse(
        tmp_path, render_html(FAILING), f"--window-size={width},4000", f"--screenshot={shot}",
        *options,
    )  # fmt: skip
    with Image.open(shot) as image:
        picture = image.convert("RGB")
    assert picture.width == width
    colours = {colour: count for count, colour in picture.getcolors(1 << 24) or ()}
    assert colours[bar] > 2_000  # the banner's edge and the bars beyond their limits
    assert colours[line] > 200  # lines along the model


def test_on_paper_it_has_pages(tmp_path):
    paper = tmp_path / "report.pdf"
    browse(tmp_path, render_html(PARTLY), "--no-pdf-header-footer", f"--print-to-pdf={paper}")
    content = paper.read_bytes()
    assert content.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    assert 2 <= pages <= 4
