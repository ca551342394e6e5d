"""What a study found, as one page that a person can read: frames to plain data to figures."""

from sweeper.report.figures import figures
from sweeper.report.inputs import ReportInput
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
from sweeper.report.small import small_figures

__all__ = [
    "Page",
    "ReportInput",
    "figures",
    "find_page",
    "page_of",
    "read_page",
    "ready_page",
    "ready_pages",
    "render",
    "small_figures",
    "write_report",
]
