"""Opinions in, questions out: holdings that opinions state of the cases they cite, among other holdings.

Begin with `parentheticals.py`; `opinions.py` reads and cleans, `distractors.py` makes the questions. May import
`questions` and what lies below it.
"""
