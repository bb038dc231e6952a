"""Models and runs on disk: loading a base, a run or a merged model; the run folder, its checkpoints and its curve.

Begin with `loading.py`, then `runs.py`. May import `packed` and what lies below it.
"""
