"""From log-probs to choices, and what choices are worth: scores, metrics, comparison, report. And a language model
as judge of answers (`judging.py`).

Begin with `scores.py`, then `scorers.py`: a model of any kind, asked the same packed questions. May import `export`,
`models` and what lies below them.
"""
