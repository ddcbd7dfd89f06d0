"""Measured results in every form they are read in: table, JSON, CSV, Markdown, a page with a picture."""

from tlopt.reports.bars import bars
from tlopt.reports.page import page
from tlopt.reports.picture import Point, picture
from tlopt.reports.rows import Report, Scalar, number, text
from tlopt.reports.tables import table_kinds

__all__ = ["Point", "Report", "Scalar", "bars", "number", "page", "picture", "table_kinds", "text"]
