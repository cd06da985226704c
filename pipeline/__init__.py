"""The rooms put together for the scripts: what two scripts would otherwise both spell out."""

import utils  # noqa: F401  # first of all: it settles how torch's threads wait
