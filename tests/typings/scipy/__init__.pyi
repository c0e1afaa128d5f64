"""What is used of SciPy, which has no types of its own."""
