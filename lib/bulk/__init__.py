"""Data sets larger than a file: questions in many files, on disks or in object stores, scored in blocks."""
