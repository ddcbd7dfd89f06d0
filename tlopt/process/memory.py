"""How much memory the machine has."""

from __future__ import annotations

import os


def physical_bytes() -> int:
    """Return the size of the machine's memory, bytes; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0
