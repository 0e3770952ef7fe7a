"""Scripts that make ranking datasets; `stoical/data.py` describes and loads what they write."""
