"""Sets of images before training: what is wrong with one, several made one, one made parts."""

from tlopt.data.audit import Audit, audit
from tlopt.data.collection import Collection, LeftOut
from tlopt.data.findings import Finding
from tlopt.data.merge import merge
from tlopt.data.split import split

__all__ = ["Audit", "Collection", "Finding", "LeftOut", "audit", "merge", "split"]
