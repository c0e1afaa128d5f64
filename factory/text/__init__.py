"""What a model is asked with and what it answered, as text."""
