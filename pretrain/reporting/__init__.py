"""Reports: what comparisons found, as pages, tables and figures that are a pure function of their folders."""

from pretrain.reporting.page import write_report
from pretrain.reporting.results import COLUMNS
from pretrain.reporting.side_by_side import write_side_by_side

__all__ = ["COLUMNS", "write_report", "write_side_by_side"]
