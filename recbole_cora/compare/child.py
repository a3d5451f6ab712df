"""A run's process in a comparison: `python -m recbole_cora.compare.child DRIVER run ...` ends when its driver ends.

The driver passes signals on, but it cannot when it is killed. On Linux the system then sends this process SIGHUP, at
which a training saves its state. It may send one for each thread of the driver, and a training is not ended by a second
SIGHUP as it is by a second SIGTERM. All this is set here and not between fork and exec, where a process with threads
may not run Python.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from recbole_cora import cli

_PR_SET_PDEATHSIG = 1


def end_with(driver: int) -> None:
    """Have this process get SIGHUP when the process `driver`, which started it, ends; end at once if it has."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored; no terminal can send it one
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGHUP), 0, 0, 0)
    if os.getppid() != driver:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    sys.exit(cli.main(sys.argv[2:]))
