"""The one way anything is written: beside its place first, and renamed when complete.

A folder is written into a `draft`, a file with `write_whole` or `writing`. `check_place` and `check_file` refuse,
before the work, an output that would destroy something.
"""

from tlopt.process import interrupts
from tlopt.publishing.claims import claim
from tlopt.publishing.drafts import Draft, draft, tidy
from tlopt.publishing.files import check_file, write_whole, writing
from tlopt.publishing.kinds import PAGE, PICTURE, Kind
from tlopt.publishing.places import CHECKPOINT, check_place

__all__ = [
    "CHECKPOINT",
    "PAGE",
    "PICTURE",
    "Draft",
    "Kind",
    "check_file",
    "check_place",
    "claim",
    "draft",
    "tidy",
    "write_whole",
    "writing",
]

interrupts.keep_whole(__file__)
