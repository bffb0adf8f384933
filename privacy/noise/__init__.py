"""Exact samplers of noise on the integer grid, and quantization to it."""
