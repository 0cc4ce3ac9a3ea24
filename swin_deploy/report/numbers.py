"""Numbers and foreign text, as every report prints them.

Errors are rounded up and cosines down, so that a failing value is never printed as the limit that
it failed.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal


def one_line(text: str) -> str:
    """Return ``text`` on one line: control, invisible and undecodable characters become spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def end_of(text: str, width: int) -> str:
    """Cut a text to its last characters, in which names of files and blocks differ."""
    return text if len(text) <= width else f"…{text[1 - width :]}"


def capital(text: str) -> str:
    """Return ``text`` with a capital first letter."""
    return text[:1].upper() + text[1:]


def error_text(value: float) -> str:
    """Return an error or a tolerance with two digits, rounded up: ``1.2e-05``."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return f"{value:f}"
    if value == 0:
        return "0"
    rounded = Context(prec=2, rounding=ROUND_CEILING).create_decimal(repr(float(value)))
    return f"{float(rounded):.1e}"


def cosine_text(value: float) -> str:
    """Return a cosine similarity with seven decimals, rounded down: ``0.9999987``."""
    if not math.isfinite(value):
        return error_text(value)
    return str(Decimal(repr(float(value))).quantize(Decimal("1e-7"), rounding=ROUND_FLOOR))


def percent_text(share: float | None) -> str:
    """Return a share from 0 to 1 in percent; 100.0% only for the whole, a dash for None."""
    if share is None:
        return "-"
    if not math.isfinite(share):
        return error_text(share)
    return f"{min(100 * share, 99.9) if share < 1 else 100 * share:.1f}%"


def decibel_text(value: float) -> str:
    """Return a ratio in dB with one decimal; ``inf`` for equal outputs."""
    return f"{value:.1f}" if math.isfinite(value) else error_text(value)


def latency_text(milliseconds: float) -> str:
    """Return a latency in ms with three digits, or the whole number."""
    return significant(milliseconds)


def ratio_text(ratio: float) -> str:
    """Return a speed ratio: ``2.13x``."""
    return f"{ratio:.2f}x"


def megabytes_text(count: float) -> str:
    """Return bytes in MB of a million bytes with three digits, or one decimal: ``1,234.5``."""
    return significant(count / 1e6) if count < 1e8 else f"{count / 1e6:,.1f}"


def significant(value: float) -> str:
    """Return a number with three digits, or the whole number: ``0.675``, ``21.4``, ``1,482``."""
    if not math.isfinite(value):
        return error_text(value)
    decimals = 2 - (math.floor(math.log10(abs(value))) if value else 2)
    return f"{value:,.{max(0, decimals)}f}"
