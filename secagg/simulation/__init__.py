"""A whole round in one process: clients in arrays, faults, transcripts."""
