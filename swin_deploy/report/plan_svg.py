"""Bytes moved by each part of a plan, as one SVG file that loads nothing."""

from __future__ import annotations

from exporters.plan import KernelPlan
from swin_deploy.report.charts import block_bars, fill_template
from swin_deploy.report.numbers import end_of, megabytes_text, one_line, ratio_text
from swin_deploy.report.plan_tables import SHOWN_KINDS

SIZES = {"width": 720, "label": 190, "bar": 330, "row": 22, "head": 62}
LONGEST_LABEL, LONGEST_TITLE = 26, 72  # characters that fit


def render_plan_svg(plan: KernelPlan, title: str) -> str:
    """Return the chart of ``block_bars`` as an SVG document; all foreign text is escaped.

    Args:
        plan: The plan, with its blocks.
        title: Name of the engine or model that was planned.
    """
    ratio = f", {ratio_text(plan.floor_ratio)} of the minimum" if plan.floor_ratio else ""
    drawn = fill_template(
        "plan.svg.j2",
        **SIZES,
        bars=block_bars(plan),
        kinds=tuple(SHOWN_KINDS),
        heading=end_of(one_line(title), LONGEST_TITLE),
        figures=f"{megabytes_text(plan.bytes_moved)} MB at batch {plan.batch}{ratio}",
        longest_label=LONGEST_LABEL,
    )
    return f"{drawn}\n"
