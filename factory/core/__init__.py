"""What all else stands on: records, artifacts, doors, files, machines, ranks."""
