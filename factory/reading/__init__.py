"""Data files as people publish them: their rows, which column means what, and the texts in them."""
