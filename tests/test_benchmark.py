"""The engine benchmark as one library call."""

import pytest

from cococli.benchmark import benchmark
from cococli.engines import choice
from cococli.reporting import Reporter
from cococli.requests import BenchRequest


def test_benchmark_records_timings_and_reports_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    class Collector(Reporter):
        def __init__(self) -> None:
            self.records: list[object] = []
            self.warnings: list[str] = []

        def record(self, record: object) -> None:
            self.records.append(record)

        def warning(self, text: str) -> None:
            self.warnings.append(text)

    working, failing = (choice.Choice("torch", "cpu", precision) for precision in ("fp32", "fp16"))
    monkeypatch.setattr("cococli.benchmark.available", lambda device: iter([failing, working]))
    monkeypatch.setattr(choice, "available", lambda *_: iter([failing, working]))
    reporter = Collector()
    result = benchmark(BenchRequest(model="shapes", rows="12", threads=1), reporter)
    assert [timing.choice for timing in result.timings] == [choice.Choice("torch", "cpu", "fp32", 1)]
    assert result.timings == reporter.records
    assert result.timings[0].captions_per_minute > 0
    assert reporter.warnings == ["--engine torch --precision fp16: torch does not support fp16 on cpu"]
    assert result.exit_code == 1
