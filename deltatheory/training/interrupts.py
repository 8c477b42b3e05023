"""Signals that wait for the end of a step, so that what was done can be kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from deltatheory.training import parallel

__all__ = ["Signals", "held_back"]

_HELD = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """What has arrived, and what should have become of it."""

    def __init__(self) -> None:
        self._before: dict[int, signal._HANDLER] = {}
        self._arrived = 0

    def hold(self) -> None:
        """Keep signals back from now on, but those that are ignored anyway."""
        for number in _HELD:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self._arrived = self._arrived, number
        if again:  # somebody is in a hurry
            self.let_go()

    def arrived(self, device: torch.device) -> bool:
        """Return whether one has arrived, here or in another process of the run, on whose device is told."""
        self._arrived = parallel.largest(self._arrived, device)
        return bool(self._arrived)

    def let_go(self) -> None:
        """Let the signal that has arrived do what it does where it is not kept back."""
        number, self._arrived = self._arrived, 0
        if number:
            mine = signal.signal(number, self._before.get(number, signal.SIG_DFL))
            signal.raise_signal(number)
            signal.signal(number, mine)  # where that has returned, the run goes on

    def release(self) -> None:
        """Keep nothing back any more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def held_back(when: bool) -> Iterator[Signals]:
    """Keep SIGINT and SIGTERM back in the block, until it lets them go, ends, or the next one arrives.

    Args:
        when: if not, or in a thread beside the main one, which signals do not reach, nothing is kept back.
    """
    signals = Signals()
    if when and threading.current_thread() is threading.main_thread():
        signals.hold()
    try:
        yield signals
    finally:
        signals.release()
        signals.let_go()
