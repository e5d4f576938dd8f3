"""On the path of workers whose wall clock is to jump: SIGUSR1 sets it an hour ahead, SIGUSR2 two hours back."""

import signal
import time

_true = time.time
_jumps = [0.0]


def _shifted():
    return _true() + _jumps[-1]


def _jump(seconds):
    return lambda *_: _jumps.append(_jumps[-1] + seconds)


time.time = _shifted
signal.signal(signal.SIGUSR1, _jump(3600.0))
signal.signal(signal.SIGUSR2, _jump(-7200.0))
