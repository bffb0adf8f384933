"""Arithmetic and primitives of the protocol: field, ring, shares, streams."""
