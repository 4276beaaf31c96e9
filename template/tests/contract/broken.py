"""A main.py that cannot be imported. Kept by the template."""

raise RuntimeError("no model")
