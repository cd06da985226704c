"""The rooms of Darkspike; which room may import which is drawn in docs/architecture.md and held by a test."""

import os

# Before torch starts its threads: idle ones sleep instead of spinning on a core that others need. docs/decisions/004
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
