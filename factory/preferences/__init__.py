"""Preferences: pairs and safety labels, judged by a model or loaded, and how models read them."""
