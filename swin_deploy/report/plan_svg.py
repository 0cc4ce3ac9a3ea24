"""Bytes moved by each part of a plan, as one SVG file that loads nothing."""

from __future__ import annotations

import html
from collections.abc import Iterator

from exporters.plan import KernelPlan
from swin_deploy.report.charts import Bar, block_bars
from swin_deploy.report.numbers import megabytes_text, one_line, ratio_text
from swin_deploy.report.plan_tables import SHOWN_KINDS

WIDTH, LABEL, BAR, ROW, HEAD = 720, 190, 330, 22, 62
LONGEST_LABEL, LONGEST_TITLE = 26, 72  # characters that fit
STYLE = """
svg { font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; background: #ffffff; }
text { fill: #1b1f24; } .quiet { fill: #59636e; } .track { fill: #e6eaee; }
.attention { fill: #7a4fc9; } .gemm { fill: #2f6fb7; }
.norm { fill: #c28a00; } .copy { fill: #c2453c; }
line { stroke: #1b1f24; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  svg { background: #12161b; }
  text { fill: #e6e9ed; } .quiet { fill: #9aa5b1; } .track { fill: #262d35; }
  .attention { fill: #a98be6; } .gemm { fill: #62a0e4; }
  .norm { fill: #dcb04a; } .copy { fill: #ee857b; }
  line { stroke: #e6e9ed; }
}
"""


def render_plan_svg(plan: KernelPlan, title: str) -> str:
    """Return the chart of ``block_bars`` as an SVG document; all foreign text is escaped.

    Args:
        plan: The plan, with its blocks.
        title: Name of the engine or model that was planned.
    """
    bars = block_bars(plan)
    height = HEAD + ROW * len(bars) + 8
    ratio = f", {ratio_text(plan.floor_ratio)} of the minimum" if plan.floor_ratio else ""
    figures = f"{megabytes_text(plan.bytes_moved)} MB at batch {plan.batch}{ratio}"
    heading = _end_of(one_line(title), LONGEST_TITLE)
    rows = "".join(part for index, bar in enumerate(bars) for part in _row(bar, HEAD + ROW * index))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">\n'
        f"<title>{html.escape(f'{heading}: {figures}')}</title>\n<style>{STYLE}</style>\n"
        f'<text x="8" y="22" font-size="15" font-weight="600">{html.escape(heading)}</text>\n'
        f'<text x="{WIDTH - 8}" y="45" text-anchor="end">{html.escape(figures)}</text>\n'
        f"{_legend()}{rows}</svg>\n"
    )


def _end_of(text: str, width: int) -> str:
    """Cut a text to its last characters, in which names of files and blocks differ."""
    return text if len(text) <= width else f"…{text[1 - width :]}"


def _legend() -> str:
    parts, left = [], 8
    for kind in SHOWN_KINDS:
        parts.append(f'<rect class="{kind}" x="{left}" y="36" width="10" height="10"/>')
        parts.append(f'<text x="{left + 15}" y="45">{kind}</text>\n')
        left += 32 + 7 * len(kind)
    parts.append(f'<line x1="{left}" x2="{left}" y1="34" y2="48"/>')
    parts.append(f'<text class="quiet" x="{left + 8}" y="45">minimum</text>\n')
    return "".join(parts)


def _row(bar: Bar, top: int) -> Iterator[str]:
    shown = _end_of(one_line(bar.label), LONGEST_LABEL)
    middle = top + 12
    yield f'<text x="{LABEL - 8}" y="{middle}" text-anchor="end">{html.escape(shown)}</text>'
    yield f'<rect class="track" x="{LABEL}" y="{top}" width="{BAR}" height="16"/>'
    left = float(LABEL)
    for length, kind in bar.parts:
        if length:
            yield f'<rect class="{kind}" x="{left:.1f}" y="{top}" '
            yield f'width="{length * BAR:.1f}" height="16"/>'
        left += length * BAR
    if bar.mark is not None:
        place = f"{LABEL + bar.mark * BAR:.1f}"
        yield f'<line x1="{place}" x2="{place}" y1="{top - 2}" y2="{top + 18}"/>'
    value = html.escape(one_line(bar.value))
    yield f'<text class="quiet" x="{LABEL + BAR + 8}" y="{middle}">{value}</text>\n'
