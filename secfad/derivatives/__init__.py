"""Modes of differentiation: requirements, plans, and what JAX differentiates."""
