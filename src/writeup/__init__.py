"""The write-up of a run, a PDF of two pages, and the check of such a PDF."""
