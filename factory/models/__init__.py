"""Causal models: their parts, configs for both versions of transformers, tiny ones."""
