"""Large maps that are freed and asked for again cost no page faults."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CODE = """
import resource, utils, torch
def fault_count(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def fill(): torch.empty(10_000_000).fill_(1.0)
fill()
before = fault_count()
for _ in range(10): fill()
print(fault_count() - before)
"""


def faults(**environment: str) -> int:
    """Page faults of filling 40 MB ten times, one after the other."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "THP_"))}
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, env=clean | environment, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_is_freed_stays_and_is_given_back_where_the_user_says_so():
    pages = 40_000_000 // os.sysconf("SC_PAGE_SIZE")
    assert faults() < pages
    assert faults(MALLOC_TRIM_THRESHOLD_="131072", THP_MEM_ALLOC_ENABLE="0") > 5 * pages
