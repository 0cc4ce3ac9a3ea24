import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import pytest
from report_samples import (
    FAILING,
    FAILING_PARITY,
    NO_RESULTS,
    NOTHING_RAN,
    PARTLY,
    PASSING,
    PASSING_PARITY,
    REPORTS,
    UNJUDGED,
    make_bench,
    make_hop,
    make_hostile_report,
    make_parity,
    make_plan,
    make_result,
)
from rich.console import Console

from exporters.errors import FileError
from swin_deploy.report.from_json import read_report
from swin_deploy.report.html import render_html
from swin_deploy.report.markdown import render_markdown
from swin_deploy.report.terminal import render_bench, render_parity, render_plan
from swin_deploy.report.to_json import to_json
from swin_deploy.report.words import headline, verdict_sentences
from swin_deploy.report.write import write_report

VOID_TAGS = {"meta", "link", "br", "hr", "img", "input"}
every_report = pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)


class Balance(HTMLParser):
    """Collects text and attributes, and fails on a tag that is not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.attributes, self.text = [], set(), [], []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes += attrs
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(text):
    parser = Balance()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def printed(renderable, width=100):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


# --- verdict


@pytest.mark.parametrize(
    ("report", "verdict", "words"),
    [
        (PASSING, "pass", "ONNX verified"),
        (PARTLY, "pass", "ONNX verified. TensorRT engine built, not yet run"),
        (FAILING, "fail", "Not equal: onnx broken, onnx nan"),
        (NOTHING_RAN, "fail", "Nothing could be run here"),
        (NO_RESULTS, "fail", "Not equal: onnx empty"),
        (UNJUDGED, "not judged", "Nothing was compared"),
    ],
    ids=["passing", "partly", "failing", "nothing-ran", "no-results", "unjudged"],
)
def test_verdict_of_each_outcome_is_the_same_everywhere(report, verdict, words):
    assert report.verdict == verdict
    assert headline(report.parity) == words
    assert to_json(report)["verdict"] == verdict
    assert render_markdown(report).startswith(f"## {words}: ")
    page = render_html(report)
    assert f"<strong>{words}</strong>" in page
    assert page.index(f"<strong>{words}") < page.index("<h2>")


def test_verdict_sentences_name_what_failed_and_what_was_not_run():
    text = "\n".join(verdict_sentences(FAILING_PARITY))
    assert "Out of tolerance: 2 of 3 steps that ran, 4 cases compared." in text
    assert "Onnx broken failed on seeded, batch 1: max error, 12 x noise: error 0.031" in text
    assert "Onnx nan failed on images, batch 8: 7 of 1000 outputs are NaN." in text
    assert "Engine fp16 has not been tested: no CUDA device" in text


def test_headline_names_a_step_not_run_whose_stage_was_verified():
    first = PASSING_PARITY.hops[0]
    missing = dataclasses.replace(
        first, name=f"{first.name}, compiled", results=(), not_run="no compiler"
    )
    parity = dataclasses.replace(PASSING_PARITY, hops=(first, missing))
    stage = "Deploy model" if first.stage == "deploy" else "ONNX"
    assert headline(parity) == f"{stage} verified. {first.name.capitalize()}, compiled not run"


def test_verdict_sentences_count_only_what_ran():
    assert "within tolerance, in all 5 cases" in verdict_sentences(PARTLY.parity)[0]
    assert "engine" not in verdict_sentences(PARTLY.parity)[0]
    assert verdict_sentences(NOTHING_RAN.parity)[0].startswith("Nothing could run here")
    assert "no comparison was recorded" in verdict_sentences(NO_RESULTS.parity)[1]


# --- JSON


@every_report
def test_report_to_dict_is_strict_json_and_round_trips(report):
    values = to_json(report)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert list(values) == [
        "schema",
        "verdict",
        "model",
        "created",
        "parity",
        "bench",
        "plan",
        "artifacts",
        "conditions",
        "made_from",
        "assumptions",
        "next_command",
        "evaluation",
    ]
    assert values["schema"] == 4


def test_parity_to_dict_has_every_hop_and_words_for_what_is_not_finite():
    values = to_json(FAILING_PARITY)
    assert values["passed"] is False
    assert [(hop["name"], hop["passed"]) for hop in values["hops"]] == [
        ("deploy", True),
        ("onnx broken", False),
        ("onnx nan", False),
        ("engine fp16", None),
    ]
    assert values["hops"][0]["results"][0]["sqnr_db"] == "Infinity"
    assert values["hops"][2]["results"][0]["max_abs"] == "NaN"
    assert values["hops"][3]["not_run"] == "no CUDA device on this machine"


def test_bench_to_dict_has_no_timings_for_what_did_not_run():
    first, *_, last = to_json(make_bench())["results"]
    assert first["ratio"] == 1.0
    assert [last[k] for k in ("median_ms", "p95_ms", "images_per_s", "ratio")] == [None] * 4


def test_plan_to_dict_has_exactly_the_published_keys():
    values = to_json(make_plan())
    assert set(values) == {
        "kernels",
        "attention_blocks",
        "fused_attention",
        "bytes_moved",
        "bytes_moved_per_image",
        "half_byte_share",
        "bytes_by_type",
        "half_kernel_share",
        "kernel_types",
        "batch",
        "flavor",
        "version",
        "float32_compute",
        "range_kernels",
        "range_fused_attention",
        "lost_float32",
        "floor_bytes",
        "floor_ratio",
        "flops",
        "unsized_products",
        "kernel_kinds",
        "blocks",
        "heaviest",
        "launches",
    }
    assert (values["kernels"], values["fused_attention"]) == (108, 12)
    assert len(values["heaviest"]) == 10
    assert len(values["launches"]) == values["kernels"]
    assert {"name", "kind", "layer_type", "bytes_moved", "onnx_nodes"} < set(values["heaviest"][0])


@every_report
def test_read_report_gives_back_what_was_written(report, tmp_path):
    path = write_report(report, tmp_path)[0]
    assert to_json(read_report(path)) == to_json(report)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("{", "is not JSON", id="not JSON"),
        pytest.param('{"schema": 99}', "schema 99", id="another schema"),
        pytest.param('{"schema": 3}', "another version of swin-deploy", id="an older schema"),
        pytest.param('{"schema": 4}', "is not a report", id="nothing in it"),
    ],
)
def test_read_report_rejects_other_files(tmp_path, text, said):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(FileError, match=said):
        read_report(path)


# --- HTML


@every_report
def test_render_html_is_balanced_and_loads_nothing(report):
    page = parse(render_html(report))
    assert not page.seen & {"script", "link", "iframe", "object", "base", "a", "form"}
    assert not {name for name, _ in page.attributes} & {"href", "srcset", "action", "style"}
    sources = [value for name, value in page.attributes if name == "src"]
    assert all(re.fullmatch(r"data:image/jpeg;base64,[A-Za-z0-9+/]+=*", one) for one in sources)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    text = render_html(report)
    assert "<script" not in text
    assert "http" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert '<meta name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_render_html_shows_foreign_text_literally():
    page = parse(render_html(make_hostile_report()))
    assert any("<script>alert('x')</script> a|b `c` *d* [e](f) new line &" in t for t in page.text)
    assert "\x1b" not in render_html(make_hostile_report())


def test_render_html_has_every_part_of_the_evidence():
    page = render_html(FAILING)
    for name in ("deploy", "onnx broken", "onnx nan", "engine fp16"):
        assert f">{name}<" in page
    assert page.count('verdict-cell not-run" data-name="Verdict">not run<') == 1
    assert "onnx broken: 1 of 2 cases passed" in page
    assert "four times the measured worst" in page
    assert "<dd>12 of 12</dd>" in page
    assert "ab" * 32 in page
    assert "2.13x" in page
    assert "root mean square" in page
    assert "97.2%" in page


# --- Markdown


def markdown_cells(line):
    return line.replace("\\|", "").strip("|").split("|")


@every_report
def test_render_markdown_tables_have_as_many_cells_as_headers(report):
    blocks = render_markdown(report).split("\n\n")
    for block in blocks:
        lines = block.splitlines()
        if lines and lines[0].startswith("| "):
            assert len({len(markdown_cells(line)) for line in lines}) == 1


def test_render_markdown_shows_foreign_text_literally():
    whole = render_markdown(make_hostile_report())
    assert "Next: `` <script>alert('x')</script> a|b `c` " in whole  # code, which is literal
    text = re.sub(r"^Next: .*$", "", whole, flags=re.MULTILINE)
    assert "<script" not in text
    assert "\x1b" not in text
    assert "a\\|b \\`c\\` \\*d\\* \\[e\\](f) new line &amp;" in text


def test_render_markdown_has_every_hop_once_in_the_hop_table():
    table = next(b for b in render_markdown(FAILING).split("\n\n") if b.startswith("| Step |"))
    rows = [[cell.strip() for cell in markdown_cells(line)] for line in table.splitlines()[2:]]
    assert [row[:3] for row in rows] == [
        ["deploy", "pass", "relative L2, 5 x noise"],
        ["onnx broken", "**FAIL**", "max error, 12 x noise"],
        ["onnx nan", "**FAIL**", "values"],
        ["engine fp16", "not run", "-"],
    ]
    assert rows[1][3:] == ["3.1e-02", "4.0e-03", "2.0e-02", "0", "seeded, batch 1", "1/2"]
    assert rows[2][3:6] == ["inf", "-", "2.0e-02"]


def test_a_name_without_spaces_is_broken_not_cut():
    hop = make_hop("x" * 300, results=(make_result(inputs="y" * 300),))
    text = printed(render_parity(make_parity(hop)))
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "6.2e-04" in text


# --- terminal


def renderables(report):
    yield from ([] if report.parity is None else [render_parity(report.parity)])
    yield from ([] if report.bench is None else [render_bench(report.bench)])
    yield from ([] if report.plan is None else [render_plan(report.plan)])


@every_report
@pytest.mark.parametrize("width", [100, 80])
def test_terminal_tables_fit(report, width):
    for renderable in renderables(report):
        text = printed(renderable, width)
        assert "\x1b" not in text
        assert max(len(line) for line in text.splitlines()) <= width


def test_terminal_tables_are_not_cut_at_100_columns():
    for renderable in (render_parity(FAILING_PARITY), render_bench(make_bench())):
        assert "…" not in printed(renderable)


def test_render_parity_has_every_hop_and_never_passes_what_did_not_run():
    lines = printed(render_parity(FAILING_PARITY)).splitlines()
    assert lines[0].strip() == "Parity: Not equal: onnx broken, onnx nan"
    start = next(i for i, line in enumerate(lines) if "──" in line)
    rows = {line[1:13].strip(): line for line in lines[start + 1 : start + 5]}
    assert list(rows) == ["deploy", "onnx broken", "onnx nan", "engine fp16"]
    assert "FAIL" in rows["onnx broken"]
    assert "1/2" in rows["onnx broken"]
    assert "seeded, batch 1" in rows["onnx broken"]
    assert "not run" in rows["engine fp16"]
    assert "pass" not in rows["engine fp16"]


def test_render_bench_and_plan_show_conditions_and_figures():
    bench = printed(render_bench(make_bench()))
    assert "2.13x" in bench
    assert "Not run: engine fp16" in bench
    assert "224 x 224 pixels" in bench
    assert "2 cores of a CPU" in bench
    plan = printed(render_plan(make_plan()))
    assert "12 of 12" in plan
    assert "kgen 48" in plan


# --- files


def test_write_report_writes_three_files_and_nothing_else(tmp_path):
    folder = tmp_path / "new" / "report"
    paths = write_report(PARTLY, folder)
    assert [path.name for path in paths] == ["report.json", "report.md", "report.html"]
    assert sorted(folder.iterdir()) == sorted(paths)
    assert json.loads(paths[0].read_text())["verdict"] == "pass"
    signature = "<!-- made by swin-deploy: report -->\n"
    assert paths[1].read_text() == render_markdown(PARTLY) + signature
    assert paths[2].read_text() == render_html(PARTLY) + signature


def test_write_report_replaces_an_older_report(tmp_path):
    write_report(PASSING, tmp_path)
    paths = write_report(FAILING, tmp_path)
    assert json.loads(paths[0].read_text())["verdict"] == "fail"


def test_write_report_into_a_file_is_an_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        write_report(PASSING, tmp_path / "taken")
