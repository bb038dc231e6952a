"""Grids of runs, and the numbers, tables and figures that they come to.

Begin with `sweep.py`; `reproduction.py` is the report of the whole experiment. A grid starts the scripts as programs of
their own. May import every other wing; none imports it.
"""
