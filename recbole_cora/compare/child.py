"""The process of one run in a comparison: `python -m recbole_cora.compare.child DRIVER run ...`.

It ends when its driver ends. The driver passes signals on, but not if it is killed. On Linux the system then sends this
process SIGHUP, and a training run that receives it saves its state and stops. The system may send one SIGHUP per thread
of the driver; unlike a second SIGTERM, a second SIGHUP does not kill a training run. All this is set up here and not
between fork and exec, where a process with threads may not run Python.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from recbole_cora import cli

_PR_SET_PDEATHSIG = 1


def end_with(driver: int) -> None:
    """Let this process receive SIGHUP when the process that started it, `driver`, ends; stop now if it already has."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it; no terminal sends it to this process
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGHUP), 0, 0, 0)
    if os.getppid() != driver:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    sys.exit(cli.main(sys.argv[2:]))
