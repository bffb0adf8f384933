"""Mechanisms, and the programs that are bound to them."""
