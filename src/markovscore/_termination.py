"""SIGTERM as a request: what a batch system sends some time before it kills."""

import signal
import threading
from types import FrameType


class Termination:
    """While entered, SIGTERM does no more than set ``requested``; the old handler comes back.

    Python allows handlers in the main thread only: elsewhere this changes nothing, and
    ``requested`` stays false. Nor does it replace a handler that was not installed from Python.
    """

    requested = False

    def __enter__(self) -> "Termination":
        self._previous = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.getsignal(signal.SIGTERM)
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
