"""The one idea: a question is one forward pass, and its candidates branch off the prompt.

Begin with `pack.py` (rows, mask), then `scoring.py` (log-probs). `selfcheck.py` holds it against ordinary forwards; the
`onednn*` files are its products on a CPU, and `kernels.cpp` what lies between them. May import `questions` and what
lies below it.
"""
