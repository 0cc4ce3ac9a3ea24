import math

import pytest
from report_samples import (
    FAILING_PARITY,
    make_bench,
)

from swin_deploy.report.charts import ratio_bars, tolerance_bars
from swin_deploy.report.numbers import (
    cosine_text,
    decibel_text,
    error_text,
    latency_text,
    megabytes_text,
    one_line,
    percent_text,
    ratio_text,
)


@pytest.mark.parametrize(
    ("render", "value", "expected"),
    [
        (error_text, 1.2e-5, "1.2e-05"),
        (error_text, 2.0001e-2, "2.1e-02"),
        (error_text, 2e-2, "2.0e-02"),
        (error_text, 9.96e-4, "1.0e-03"),
        (error_text, 0.0, "0"),
        (error_text, math.nan, "NaN"),
        (error_text, math.inf, "inf"),
        (error_text, -math.inf, "-inf"),
        (cosine_text, 0.99999981, "0.9999998"),
        (cosine_text, 0.9994999999, "0.9994999"),
        (cosine_text, 1.0, "1.0000000"),
        (cosine_text, math.nan, "NaN"),
        (percent_text, 0.9999, "99.9%"),
        (percent_text, 1.0, "100.0%"),
        (percent_text, None, "-"),
        (percent_text, math.nan, "NaN"),
        (decibel_text, 64.26, "64.3"),
        (decibel_text, math.inf, "inf"),
        (latency_text, 0.8134, "0.813"),
        (latency_text, 1412.66, "1,413"),
        (ratio_text, 2.126, "2.13x"),
        (megabytes_text, 57_012_345, "57.0"),
        (megabytes_text, 12_345, "0.0123"),
        (one_line, " a\r\n\tb\x00\u202e\udcff c ", "a b c"),
    ],
)
def test_numbers_never_flatter(render, value, expected):
    assert render(value) == expected


def test_charts_have_only_what_ran():
    bars = tolerance_bars(FAILING_PARITY)
    assert [bar.label for bar in bars] == ["deploy", "onnx broken", "onnx nan"]
    assert [bar.parts[0][1] for bar in bars] == ["good", "bad", "bad"]
    assert all(0 <= bar.parts[0][0] <= 1 for bar in bars)
    assert [bar.value for bar in ratio_bars(make_bench())] == [
        "1.00x",
        "2.13x, 1.95 to 2.31",
    ]
