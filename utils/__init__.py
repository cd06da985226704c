"""The rooms of Darkspike; which room may import which is drawn in docs/architecture.md and held by a test."""

import ctypes
import os
import sys

# Before torch starts its threads: idle ones sleep instead of spinning on a core that others need. docs/decisions/004
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Before torch allocates: maps of many MB come in large pages and stay with the process. docs/decisions/126
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's mallopt


def _keep_memory() -> None:
    """Let glibc keep what is freed: a step of training frees and asks for the same maps over and over."""
    if sys.platform != "linux" or any(name in os.environ for name in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda what, value: 0)  # musl has none
    for what, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26)):
        mallopt(what, value)


_keep_memory()
