"""Measured results in every form they are read in: table, JSON, CSV, Markdown, a page with a picture."""

from tlopt.report.bars import bars
from tlopt.report.page import page
from tlopt.report.picture import Point, picture
from tlopt.report.rows import Report, Scalar, number, text, write

__all__ = ["Point", "Report", "Scalar", "bars", "number", "page", "picture", "text", "write"]
