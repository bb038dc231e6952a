"""The packed pass as an ONNX graph: its int8 form, its files, and whether it still is the model.

Begin with `graph.py`; `session.py` runs what lies on disk. May import `models` and what lies below it.
"""
