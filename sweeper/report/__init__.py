"""Reports and pages: data frames are reduced to plain data, which figures and tables show."""

from sweeper.report.page import (
    Page,
    built_in_page,
    built_in_pages,
    find_page,
    page_of,
    read_page,
    render,
    write_report,
)
from sweeper.report.report_input import ReportInput

__all__ = [
    "Page",
    "ReportInput",
    "built_in_page",
    "built_in_pages",
    "find_page",
    "page_of",
    "read_page",
    "render",
    "write_report",
]
