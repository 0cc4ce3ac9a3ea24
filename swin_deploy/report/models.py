"""Models, sources and findings about a machine, as Rich renderables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from swin_deploy.config import SwinConfig
from swin_deploy.doctor import Finding
from swin_deploy.report.grids import Column, Grid

SHOWN_SIZES = 3
SIGNS = {"ok": ("ok", "green"), "missing": ("--", "yellow"), "broken": ("no", "red")}


def render_models(rows: Sequence[tuple[Mapping[str, Any], SwinConfig]]) -> RenderableType:
    """Return one row for each variant, with its short names below its name.

    Args:
        rows: JSON values of each variant, with its configuration.
    """
    columns = (
        Column("Model", wraps=False),
        Column("M params", wraps=False, right=True),
        Column("GMACs", wraps=False, right=True),
        Column("Windows"),
        Column("Image sizes"),
    )
    return Grid(columns, [_model(row, config) for row, config in rows])


def _model(row: Mapping[str, Any], config: SwinConfig) -> tuple[Text, ...]:
    windows = config.window_sizes
    own, legal = config.img_size, config.legal_img_sizes(SHOWN_SIZES + 1)
    others = [size for size in legal if size != own][:SHOWN_SIZES]
    sizes = Text(", ").join([Text(str(own), style="bold"), *(Text(str(one)) for one in others)])
    return (
        Text(row["name"]).append("".join(f"\n{one}" for one in row["short_names"]), style="cyan"),
        Text(f"{row['parameters'] / 1e6:.1f}"),
        Text(f"{row['gmacs']:.1f}"),
        Text(", ".join(map(str, windows)) if len(set(windows)) > 1 else str(windows[0])),
        sizes + Text(", ..."),
    )


def render_sources(sources: Mapping[str, str]) -> RenderableType:
    """Return one row for each source of checkpoints, with a description of its files."""
    rows = [(Text(f"  {source}"), Text(files)) for source, files in sources.items()]
    return Grid((Column(), Column()), rows)


def render_findings(findings: Sequence[Finding]) -> RenderableType:
    """Return one row for each finding about the machine, with its remedy."""
    return Grid((Column(wraps=False), Column()), [_finding(one) for one in findings])


def _finding(found: Finding) -> tuple[Text, ...]:
    sign, style = SIGNS[found.state]
    detail = Text(found.detail)
    if found.remedy:
        detail.append(f"\n{found.remedy}", style="cyan")
    return Text(f"{sign}  ", style=style).append(found.name, style="default"), detail
