"""The optimizers: one method per file over `base.py`."""
