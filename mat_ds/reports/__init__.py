"""From finished and unfinished runs to one page with their curves, tables and files."""
