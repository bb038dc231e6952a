"""What a question is, where it comes from, and how it becomes token ids: the prompt contract.

Begin with `prompt.py`, then `data.py`; a form of data is an entry in `forms.py`, a data set of the hub one in
`hub_data.py`. May import `demo` and the ground.
"""
