"""The largest counts that settings take: nobody means more, and a slip of the keyboard is told before any work."""

from __future__ import annotations

MOST_IN_BATCH = 1_000_000  # images of a run or a step: memory holds that many of the smallest inputs only
MOST_IMAGES = 100_000_000  # more than labelled sets have
MOST_EPOCHS = 100_000
MOST_REPEATS = 1_000_000  # steps or runs that are measured one by one
MOST_SHOWN = 1_000_000  # lines of a table, classes of an answer
