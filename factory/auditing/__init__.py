"""What a set of traces holds, before one trains on it: faults, lengths, overlaps."""
