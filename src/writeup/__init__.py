"""The write-up of a run, a PDF of two pages, and the check of such a PDF."""

from src.writeup.check import check_writeup

__all__ = ["check_writeup"]
