"""A model factory: recipes in, sealed artifacts, benchmarked checkpoints and reports out."""

__version__ = "0.1.0"
