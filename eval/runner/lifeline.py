"""A run that must not outlive whoever started it: it ends at once when its standard input does.

A pipe closes with the process that holds its other end, however that process ends; a kill leaves nobody to send a
signal. A run loses at most the part it was writing.
"""

from __future__ import annotations

import os
import sys
import threading


def end_with_standard_input() -> None:
    """Watch standard input in a thread; at its end this process is gone, without a word."""

    def watch() -> None:
        while os.read(fd, 4096):
            pass
        os._exit(130)

    fd = sys.stdin.fileno()
    threading.Thread(target=watch, name="eval-lifeline", daemon=True).start()
