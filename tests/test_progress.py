"""Progress: lines now and then in a pipe, a bar on a terminal, nothing when quiet."""

from __future__ import annotations

import pytest

from featurestore.progress import Bar, Lines, Progress, Silent, format_seconds, on_stderr


def work(progress: Progress) -> None:
    progress.say("something worth keeping")
    progress.start("compute", 100, "rows")
    for _ in range(10):
        progress.advance(10, 1_000_000)


def test_a_pipe_gets_lines_with_rate_and_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    with on_stderr() as progress:
        assert isinstance(progress, Lines)
        work(progress)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "something worth keeping"
    assert lines[1].startswith("compute: 100/100 rows, ")
    assert "10 MB in" in lines[1]
    assert len(lines) == 2  # within ten seconds only the end of a stage is told


def test_lines_tell_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Lines(interval_s=0)
    progress.start("compute", 100, "rows")
    progress.advance(50)
    assert capsys.readouterr().err.rstrip().endswith("left")


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar() as bar:
        work(bar)
    text = capsys.readouterr().err
    assert "something worth keeping" in text
    assert "100/100" in text
    assert "10 MB" in text


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with on_stderr(quiet=True) as progress:
        assert isinstance(progress, Silent)
        work(progress)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.96, "10.0 s"), (42.4, "42 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
