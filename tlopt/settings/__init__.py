"""A function's signature is the schema: options, ranges, help and defaults are read from it.

A setting is a keyword-only parameter annotated ``Annotated[type, Setting("Help.")]``. Settings that
several functions share, or that travel together, are fields of a frozen dataclass annotated alike, a
record: a keyword-only parameter of that type stands for all of its fields. Outside of the function
settings are always flat: command-line options, recipe keys, keyword arguments, validation and lineage
come from `parameters` and `check`; `arguments` puts checked settings into the records again. What holds between
settings is a rule, a function that `ruled` names: recipes ask it before their first step.
"""

from tlopt.settings.checking import check, check_kind, checked, flat, recorded
from tlopt.settings.counts import MOST_EPOCHS, MOST_IMAGES, MOST_IN_BATCH, MOST_REPEATS, MOST_SHOWN
from tlopt.settings.declaring import Only, Parameter, Setting, Without, range_text
from tlopt.settings.signatures import arguments, flat_signature, formerly, moved, parameters, ruled

__all__ = [
    "MOST_EPOCHS",
    "MOST_IMAGES",
    "MOST_IN_BATCH",
    "MOST_REPEATS",
    "MOST_SHOWN",
    "Only",
    "Parameter",
    "Setting",
    "Without",
    "arguments",
    "check",
    "check_kind",
    "checked",
    "flat",
    "flat_signature",
    "formerly",
    "moved",
    "parameters",
    "range_text",
    "recorded",
    "ruled",
]
