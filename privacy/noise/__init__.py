"""Exact samplers of noise on the integer grid, and the way from reals to it."""
