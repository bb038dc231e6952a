"""What training minimises and on what: objectives, candidates drawn, and the parts of a step.

Begin with `losses.py`; `recipe.py` says what a run's settings ask of them. The loop itself stands in
`train_sdpo.py`. May import `models` and what lies below it.
"""
