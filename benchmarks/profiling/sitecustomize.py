"""On the path of a worker that is profiled: SIGUSR1 starts cProfile in its main thread, SIGUSR2 stops it and writes.

Only where STARLING_BENCH_PROFILE names the file to write.
"""

import cProfile
import os
import signal


def _listen(target):
    profile = cProfile.Profile()

    def write(*_):
        profile.disable()
        profile.dump_stats(f"{target}.part")
        os.replace(f"{target}.part", target)

    signal.signal(signal.SIGUSR1, lambda *_: profile.enable())
    signal.signal(signal.SIGUSR2, write)


if os.environ.get("STARLING_BENCH_PROFILE"):
    _listen(os.environ["STARLING_BENCH_PROFILE"])
