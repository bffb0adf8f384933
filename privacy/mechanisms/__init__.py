"""Mechanisms, and the programs that are clipped for them."""
