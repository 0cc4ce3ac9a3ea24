"""Who is faster, how sure that is, and what the tables and JSON say of it."""

import dataclasses
import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from report_samples import make_bench, make_report

from swin_deploy.bench import BenchReport, BenchResult, Comparison
from swin_deploy.bench.comparisons import compare_baselines
from swin_deploy.bench.contenders import Contender, TimedRunner
from swin_deploy.bench.gpu import GpuSampler, GpuState, find_gpu
from swin_deploy.config import Size
from swin_deploy.intervals import MIN_PAIRS, is_settled, ratio_interval, ratio_of
from swin_deploy.report.bench_words import bench_sentences
from swin_deploy.report.from_json import read_report
from swin_deploy.report.tables import bench_not_run, bench_table
from swin_deploy.report.to_json import to_json
from swin_deploy.report.write import write_report

NOISE = np.random.default_rng(0)


def rounds(median_ms, count=60, noise=0.05):
    return median_ms * (1 + noise * NOISE.standard_normal(count))


# intervals


def test_ratio_interval_holds_the_ratio_and_leaves_out_1_when_there_is_a_difference():
    base, calls = rounds(20.0), rounds(10.0)
    low, high = ratio_interval(base, calls)
    assert low < 2.0 < high
    assert low < ratio_of(base, calls) < high
    assert low > 1.5


def test_ratio_interval_of_equals_holds_1_about_as_often_as_it_says():
    intervals = [ratio_interval(rounds(10.0), rounds(10.0)) for _ in range(100)]
    assert 85 <= sum(low < 1 < high for low, high in intervals) <= 100


def test_ratio_interval_pairs_rounds_so_that_shared_drift_does_not_widen_it():
    drift = np.linspace(1, 3, 60)
    base, calls = drift * rounds(20.0, noise=0.001), drift * rounds(10.0, noise=0.001)
    paired, shuffled = (
        high - low
        for low, high in (
            ratio_interval(base, calls),
            ratio_interval(base, NOISE.permutation(calls).tolist()),
        )
    )
    assert paired < 0.1 * shuffled


@pytest.mark.parametrize(("base", "calls"), [(MIN_PAIRS - 1,) * 2, (20, 19)])
def test_ratio_interval_needs_rounds_enough_and_as_many(base, calls):
    assert ratio_interval([1.0] * base, [1.0] * calls) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("calls", "settled"),
    [
        ([10.0] * 10, True),
        ([10.0] * 9, False),
        ([10.0] * 5 + [10.1] * 5, True),
        ([10.0] * 5 + [9.0] * 5, False),
        ([50.0] + [10.0] * 9, True),
        ([50.0] * 20 + [10.0] * 10, True),
    ],
    ids=["steady", "too few", "within 2 %", "still moving", "an outlier", "slow start"],
)
def test_is_settled(calls, settled):
    assert is_settled(calls) is settled


# comparisons


def lane(name, ms, *, kind="reference", mode="eager", precision="fp32"):
    runner: Any = SimpleNamespace(name=name, precision=precision)
    found = TimedRunner(Contender(runner, precision, kind, mode))
    found.calls_ms = list(rounds(ms, noise=0.01))
    return found


def test_compare_bars_takes_the_fastest_of_each_side():
    lanes = [
        lane("reference", 20.0),
        lane("reference", 15.0, precision="tf32"),
        lane("deploy model", 12.0, kind="deploy"),
        lane("deploy model, compiled", 4.0, kind="deploy", mode="compile"),
        lane("reference, compiled", 3.0, mode="compile"),
        lane("timm's model", 18.0, kind="original"),
        lane("timm's model, compiled", 8.0, kind="original", mode="compile"),
        lane("ONNX fp32", 10.0, kind="onnx", mode="file"),
    ]
    found = {one.bar: one for one in compare_baselines(lanes, 8)}
    assert {one.ours for one in found.values()} == {"deploy model, compiled, fp32"}
    assert found["eager"].theirs == "reference, tf32"
    assert found["compile"].theirs == "reference, compiled, fp32"
    assert found["original"].theirs == "timm's model, compiled, fp32"
    assert [one.ratio > 1 for one in found.values()] == [True, False, True]
    assert all(one.decided for one in found.values())


def test_compare_bars_leaves_out_what_failed():
    broken = lane("ONNX fp32", 1.0, kind="onnx", mode="file")
    broken.failed = "wrong"
    found = compare_baselines([lane("r", 2.0), lane("deploy model", 1.5, kind="deploy"), broken], 1)
    assert [one.ours for one in found] == ["deploy model, fp32"]
    assert compare_baselines([lane("r", 2.0), broken], 1) == []


def report_of(*comparisons):
    return dataclasses.replace(make_bench(), comparisons=comparisons)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (("eager", 2.0, 1.9, 2.1), "engine is faster than them (PyTorch as it is): 2.00x, 1.90"),
        (
            ("compile", 0.5, 0.4, 0.625),
            "torch.compile is faster here: them against engine, 2.00x, 1.60 to 2.50.",
        ),
        (("original", 1.02, 0.98, 1.06), "no difference between engine and them (the original"),
        (("eager", 2.0, 0.0, 0.0), "too few rounds to compare engine with them"),
    ],
    ids=["faster", "slower", "undecided", "few rounds"],
)
def test_bench_sentences(found, words):
    bar, ratio, low, high = found
    (sentence,) = bench_sentences(report_of(Comparison(8, bar, "engine", "them", ratio, low, high)))
    assert sentence.startswith("Batch 8: ")
    assert words in sentence


# tables and JSON

TIMED = BenchResult("a", 4, "fp16", "b", 30, 2.0, 2.5, 2000.0, 1.5, ratio_low=1.4, ratio_high=1.6)


def table_of(*results):
    table = bench_table(BenchReport("m", 56, results))
    return [header for header, _ in table.columns], table.rows


def test_bench_table_has_the_columns_that_something_fills():
    headers, rows = table_of(TIMED)
    assert "1.40-1.60" in rows[0]
    assert not {"Device ms", "Peak MB", "Images/s with copies"} & set(headers)
    on_gpu = dataclasses.replace(TIMED, device_ms=1.9, peak_mb=123.4, copies_ms=8.0)
    headers, rows = table_of(on_gpu, TIMED)
    assert headers[-4:] == ["Device ms", "Images/s with copies", "Peak MB", "Calls timed"]
    assert rows[0][-4:] == ("1.90", "500.0", "123", "30")
    assert rows[1][-4:] == ("-", "-", "-", "30")


def test_bench_table_tells_failed_from_not_run():
    gone = [
        BenchResult("a", 1, "fp32", "", not_run="n"),
        BenchResult("b", 1, "fp32", "", failed="f"),
    ]
    _, rows = table_of(*gone)
    assert [row[3] for row in rows] == ["not run", "failed"]
    assert dict(bench_not_run(BenchReport("m", 56, tuple(gone)))) == {
        "Not run: a, fp32": "n",
        "Failed: b, fp32": "f",
    }


def test_bench_not_run_names_the_batches_where_it_is_not_all():
    results = (BenchResult("a", 1, "fp32", "", failed="f"), dataclasses.replace(TIMED, batch=2))
    assert dict(bench_not_run(BenchReport("m", 56, results)))["Failed: a, fp32"] == "batch 1: f"


@pytest.mark.parametrize(("size", "words"), [(56, "56 x 56"), (Size(56, 112), "56 x 112")])
def test_bench_json_is_complete_and_reads_back(size, words, tmp_path):
    compared = Comparison(4, "compile", "engine", "them", 0.9, 0.8, 1.1)
    failed = BenchResult("b", 4, "fp32", "", failed="f", relative_l2=float("inf"))
    bench = BenchReport("m", size, (TIMED, failed), {"device": "CPU"}, (compared,))
    values = to_json(bench)
    fields = {field.name for field in dataclasses.fields(BenchResult)}
    assert all(set(result) == fields for result in values["results"])
    lost = values["results"][1]
    assert (lost["median_ms"], lost["ratio_low"], lost["relative_l2"]) == (None, None, "Infinity")
    write_report(make_report(None, bench=bench), tmp_path)
    read = read_report(tmp_path / "report.json").bench
    assert read is not None
    assert (read.img_size, read.comparisons) == (size, (compared,))
    assert read.results[0] == TIMED
    assert f"{words} pixels" in (tmp_path / "report.md").read_text()
    assert "no difference between engine and them" in (tmp_path / "report.md").read_text()
    assert "no difference between engine and them" in (tmp_path / "report.html").read_text()


# the GPU's state


class Nvml:
    """A management library that counts up its answers, and refuses power."""

    def __init__(self, start):
        self.start = start
        self.values = itertools.count(5)

    def nvmlInit_v2(self):  # noqa: N802 - the library's name
        return self.start

    def nvmlDeviceGetHandleByUUID(self, uuid, handle):  # noqa: N802
        return 0 if uuid == b"GPU-1" else 6

    def answer(self, handle, *rest):
        rest[-1]._obj.value = next(self.values)
        return 0

    nvmlDeviceGetClockInfo = nvmlDeviceGetTemperature = answer  # noqa: N815
    nvmlDeviceGetCurrentClocksThrottleReasons = answer  # noqa: N815

    def nvmlDeviceGetPowerUsage(self, handle, value):  # noqa: N802
        return 3


def test_read_state_says_what_the_library_answers_and_leaves_out_what_it_refuses():
    expected = "SM 6 MHz, memory 7 MHz, 8 C, clocks held by: idle and power cap"
    read = find_gpu(Nvml(0), "GPU-1")
    assert read is not None
    assert read().text == expected
    assert find_gpu(Nvml(0), "GPU-2") is None
    assert find_gpu(Nvml(9), "GPU-1") is None


def test_sampler_says_median_range_and_how_often_the_clocks_were_held():
    states = iter(
        [
            GpuState(1980, 2619, 55, 300, 0x0),
            GpuState(1755, 2619, 61, 690, 0x4),
            GpuState(1755, 2619, 63, None, 0x4 | 0x20),
        ]
    )
    sampler = GpuSampler(lambda: next(states), every_s=0.0)
    assert sampler.text == ""
    for _ in range(3):
        sampler.sample()
    assert sampler.text == (
        "SM 1755 (1755 to 1980) MHz, memory 2619 MHz, 61 (55 to 63) C, 495 (300 to 690) W, "
        "clocks held by: power cap in 2 of 3, software thermal in 1 of 3 "
        "(3 readings between timed rounds)"
    )


def test_sampler_reads_no_more_often_than_it_may_and_nothing_without_a_gpu():
    reads = []

    def read():
        reads.append(1)
        return GpuState(1, 1, 1, 1, 0)

    sampler = GpuSampler(read, every_s=3600.0)
    sampler.sample()
    sampler.sample()
    assert len(reads) == 1
    assert "clocks held by: nothing (1 readings" in sampler.text
    nothing = GpuSampler(None)
    nothing.sample()
    assert nothing.text == ""
