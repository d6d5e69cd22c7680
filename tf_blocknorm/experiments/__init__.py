"""Experiments: problems, recipes, runs, tables, figures and the `tf-blocknorm` command.

Nothing in the library imports this package; it needs the extra `experiments`.

A new problem is one file in `problems/`; a new method is one row in `recipes.py`.
"""
