"""Checkpoints and trace sets as folders that others can trust: exported, carded, gated, hashed."""
