"""Data sets larger than a file: questions in many files, on disks or in object stores, scored in blocks.

Begin with `scoring.py`; `blocks.py` cuts the files, `places.py` knows where they lie. May import the ground alone.
"""
