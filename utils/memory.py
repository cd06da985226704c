"""How much memory there is, and how an amount of it is written."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def free_memory() -> int:
    """Bytes that can be had now, within the limits of a container."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        rows = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        available = int(rows["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        available = min(available, int(limit.read_text()) - int(used.read_text()))
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    statm = Path("/proc/self/statm")
    if space != resource.RLIM_INFINITY and statm.is_file():
        available = min(available, space - int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE"))
    return max(0, available)


def in_words(count: int) -> str:
    """Bytes as people read them; an estimate may have any number of digits."""
    return f"{count / 1e9:,.1f} GB" if count < 10**18 else f"over {10**9:,} GB"
