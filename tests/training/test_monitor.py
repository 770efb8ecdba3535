"""Counting tokens, time and memory."""

import pytest
import torch

from tokenq.training import monitor
from tokenq.training.monitor import Meter, peak_memory

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [100.0]
    monkeypatch.setattr(monitor.time, "perf_counter", lambda: now[0])
    return now


def test_tokens_and_seconds_between_two_readings(clock):
    meter = Meter(_since=clock[0])
    meter.count(30, 40)
    meter.count(60, 60)
    clock[0] += 3
    reading = meter.read(CPU)
    assert (reading["tokens"], reading["tokens_per_second"], reading["seconds"]) == (90.0, 30.0, 3.0)
    assert reading["padding_share"] == pytest.approx(0.1)
    meter.count(10, 10)
    clock[0] += 2
    reading = meter.read(CPU)
    assert (reading["tokens"], reading["tokens_per_second"], reading["padding_share"]) == (100.0, 5.0, 0.0)


def test_time_that_is_not_training_is_left_out(clock):
    meter = Meter(_since=clock[0])
    meter.count(30, 30)
    clock[0] += 50
    meter.restart()
    meter.count(10, 10)
    clock[0] += 1
    reading = meter.read(CPU)
    assert (reading["tokens"], reading["tokens_per_second"], reading["seconds"]) == (40.0, 10.0, 1.0)


def test_nothing_counted_is_no_division_by_zero(clock):
    reading = Meter(_since=clock[0]).read(CPU)
    assert (reading["tokens_per_second"], reading["padding_share"]) == (0.0, 0.0)


def test_the_most_memory_never_falls():
    before = peak_memory(CPU)
    block = torch.ones(30_000_000)
    assert peak_memory(CPU) >= before > 10**7
    del block
    assert peak_memory(CPU) >= before
