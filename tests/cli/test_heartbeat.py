"""Signs of life of long steps, with a clock that the test sets."""

from __future__ import annotations

import threading

import pytest
from command_line import Command

from exporters.progress import Progress, silent, within
from swin_deploy.cli.heartbeat import BAR_AFTER_S, EVERY_S, Bar, Heartbeat, Ticker


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_heartbeat_tells_every_half_minute_and_not_before(clock: Clock) -> None:
    lines: list[str] = []
    heart = Heartbeat("Comparing", lines.append, clock)
    heart.update("onnx fp32: images, batch 7", 0.25)
    clock.now += EVERY_S - 0.1
    heart.beat()
    assert lines == []
    clock.now += 0.1
    heart.beat()
    heart.beat()
    assert lines == [
        "    Comparing: 0:00:30 so far, 25 % done, about 0:01:30 left (onnx fp32: images, batch 7)"
    ]
    clock.now += EVERY_S
    heart.update("onnx fp32: seeded, batch 1", 0.5)
    assert lines[1:] == [
        "    Comparing: 0:01:00 so far, 50 % done, about 0:01:00 left (onnx fp32: seeded, batch 1)"
    ]


def test_heartbeat_without_a_share_tells_no_time_left(clock: Clock) -> None:
    lines: list[str] = []
    heart = Heartbeat("Building", lines.append, clock)
    clock.now += 3 * EVERY_S
    heart.beat()
    heart.update("tactics", None)
    assert lines == ["    Building: 0:01:30 so far"]


def test_heartbeat_at_the_beginning_tells_no_time_left(clock: Clock) -> None:
    lines: list[str] = []
    heart = Heartbeat("Comparing", lines.append, clock)
    clock.now += EVERY_S
    heart.update("images", 0.001)
    assert lines == ["    Comparing: 0:00:30 so far, 0 % done (images)"]


def test_heartbeat_keeps_the_share_it_knows(clock: Clock) -> None:
    lines: list[str] = []
    heart = Heartbeat("Comparing", lines.append, clock)
    heart.update("images", 0.5)
    clock.now += EVERY_S
    heart.update("looking for what goes wrong first", None)
    assert "50 % done" in lines[0]


def test_within_maps_shares_and_keeps_unknown_ones() -> None:
    told: list[tuple[str, float | None]] = []

    def tell(detail: str, share: float | None = None, /) -> None:
        told.append((detail, share))

    inner: Progress = within(within(tell, 0.5, 1.0), 0.0, 0.5)
    for share in (0.0, 0.5, 1.0, None):
        inner("x", share)
    assert told == [("x", 0.5), ("x", 0.625), ("x", 0.75), ("x", None)]
    silent("nobody hears", 0.5)


def test_ticker_calls_until_it_is_stopped() -> None:
    called = threading.Event()
    ticker = Ticker(called.set, every_s=0.001)
    assert called.wait(10)
    ticker.stop()
    called.clear()
    assert not called.is_set()
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}


def test_bar_begins_after_a_moment_and_leaves_standard_output_alone(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    bar = Bar("Comparing", clock)
    bar.update("images", 0.25)
    assert capsys.readouterr() == ("", "")
    clock.now += BAR_AFTER_S
    bar.update("seeded", 0.5)
    print("result")  # noqa: T201 - what must not be touched
    bar.stop()
    out, err = capsys.readouterr()
    assert out == "result\n"
    assert "Comparing" in err
    assert "seeded" in err
    assert "\x1b[?25h" in err  # the cursor is there again


def test_step_off_a_terminal_says_nothing_more_than_before(swin: Command) -> None:
    outcome = swin("export", "--model", "notebook-digits").assert_done()
    assert "so far" not in outcome.err
    assert outcome.err.count("✓") == 2


def test_long_step_is_alive_off_a_terminal(swin: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swin_deploy.cli.heartbeat.EVERY_S", 0.0)
    arguments = ("parity", "--model", "notebook-digits", "--limit", "2", "--batches", "1")
    outcome = swin(*arguments).assert_done()
    shares = [line for line in outcome.err.splitlines() if " % done" in line]
    assert any("Comparing every step with the reference: 0:00:0" in line for line in shares)
    assert any("deploy model: images, batch 1)" in line for line in shares)
    assert "so far" not in swin("-q", *arguments).assert_done().err
