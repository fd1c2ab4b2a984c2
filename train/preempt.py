"""SIGTERM asks the loop to save and leave with exit status 143, which launchers retry."""

import signal

EXIT_STATUS = 143


class Preempted(Exception):
    """Raised by the loop after it has saved."""


class Notice:
    """Whether SIGTERM has arrived since `watch`."""

    def __init__(self):
        self.arrived = False

    def watch(self) -> "Notice":
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "arrived", True))
        return self
