"""How fast the machine is just now, so that a bound on time means the same on every one and under any load."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Self

_SAMPLE = [{"id": number, "name": f"number {number}", "tags": ["a", "b"]} for number in range(40)]


def _work() -> int:
    """Some Python calls, allocations and C loops, mixed as in the library: a millisecond on most machines."""
    found = 0
    for _ in range(4):
        text = json.dumps(_SAMPLE)
        found += sum(len(str(item["name"])) for item in json.loads(text))
        found += len({str(number): [number] for number in range(800)})
    return found


def cpu_time(call: Callable[[], object]) -> float:
    """The CPU seconds that a call takes this thread."""
    began = time.thread_time()
    call()
    return time.thread_time() - began


def paces(call: Callable[[], object], tries: int = 3) -> float:
    """How often the reference work fits into the CPU time of a call: the least of some tries, as noise only adds."""
    return min(_once(call) for _ in range(tries))


def _once(call: Callable[[], object]) -> float:
    before = min(cpu_time(_work) for _ in range(3))
    took = cpu_time(call)
    return took / max(before, min(cpu_time(_work) for _ in range(3)))


class Lateness:
    """How late a deadline may be kept: three times as late as a thread that only sleeps wakes up at the worst.

    Nothing on this machine keeps a deadline better, and what keeps one here is a chain of waits: a loop's, that of the
    thread it runs in, and that of whoever is waiting for it.

    with Lateness() as late:
        ...
    assert took <= deadline * 1.1 + late.seconds
    """

    _STEP = 0.01
    _WAITS = 3

    def __init__(self) -> None:
        self.seconds = 0.0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._ends.is_set():
            begun = time.monotonic()
            time.sleep(self._STEP)
            late = time.monotonic() - begun - self._STEP
            self.seconds = max(self.seconds, self._WAITS * late)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()
