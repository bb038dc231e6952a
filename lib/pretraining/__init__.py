"""Text in, language model out, where no pretrained model can be had.

Begin with `language_model.py`. May import the ground alone: `lib/errors.py`, `paths.py`, `cli.py` and `hub.py`.
"""
