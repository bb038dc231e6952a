"""Text in, language model out, where no pretrained model can be had.

Begin with `language_model.py`. May import the ground alone: the files of `lib/` that stand in no wing.
"""
