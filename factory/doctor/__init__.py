"""What `factory doctor` examines."""
