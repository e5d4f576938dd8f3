"""On the path of a worker that is profiled: a thread looks at the main thread's stack every few milliseconds.

Written at exit: how often each function was at the top ("self"), and how often anywhere in a stack ("total"); time in
the selector is idle time. Started only where STARLING_BENCH_PROFILE names the file to write.
"""

import atexit
import json
import os
import sys
import threading
import time
from collections import Counter

INTERVAL = 0.002


def _name(frame):
    code = frame.f_code
    path = code.co_filename.rpartition("/site-packages/")[2].rpartition("/agent-runtime/")[2]
    return f"{path}:{code.co_qualname}"


def _sample(main, own, total, times):
    while True:
        time.sleep(INTERVAL)
        frame = sys._current_frames().get(main)
        busy = time.process_time()
        if frame is None or busy - times[0] < INTERVAL / 4:
            continue  # the process slept since the last look
        times[0] = busy
        own[f"{_name(frame)}:{frame.f_lineno}"] += 1
        seen = set()
        while frame is not None:
            seen.add(_name(frame))
            frame = frame.f_back
        total.update(seen)


def _start(target):
    own, total = Counter(), Counter()
    sys.setswitchinterval(0.0005)
    main = threading.main_thread().ident
    threading.Thread(target=_sample, args=(main, own, total, [0.0]), daemon=True, name="profile").start()

    def write():
        with open(f"{target}.{os.getpid()}.json", "w") as out:
            json.dump({"cpu": time.process_time(), "own": own.most_common(80), "total": total.most_common(120)}, out)

    atexit.register(write)


if os.environ.get("STARLING_BENCH_PROFILE"):
    _start(os.environ["STARLING_BENCH_PROFILE"])
