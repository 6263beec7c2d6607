"""Turns runs into a report: one page with curves, tables and files."""
