"""What a study found, as one page that a person can read: frames to plain data to figures."""

from sweeper.report.page import (
    Page,
    find_page,
    page_of,
    read_page,
    ready_page,
    ready_pages,
    render,
    write_report,
)
from sweeper.report.report_input import ReportInput

__all__ = [
    "Page",
    "ReportInput",
    "find_page",
    "page_of",
    "read_page",
    "ready_page",
    "ready_pages",
    "render",
    "write_report",
]
