"""What answers for registered models, one file per kind of task; `Kind.server` names it.

This folder is stored with every model and loaded where mat_ds may not be installed: its files import nothing of mat_ds, and
each other by relative imports. MLflow's own wrapper of pipelines is not used: it returns only the best label or a table of
dicts, and evaluates texts that look like Python literals ("42", or a sentence in quotes).
"""
