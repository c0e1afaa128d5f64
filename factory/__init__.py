"""A model factory: recipes in, sealed artifacts, benchmarked checkpoints and reports out."""

__version__ = "0.1.0"
DISTRIBUTION = "distill-factory"
"""What it is installed as; rows of other packages in it (the lab) count as the factory's own. By it
`ownership.py` knows this file from that of another distribution with a module `factory`."""
