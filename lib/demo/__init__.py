"""Made-up questions and a tiny model, for people without a network. No claim rests on them.

Begin with `data.py`. May import `pretraining` and the ground.
"""
