"""Proofs: the verifier, which reads programs as data and needs neither JAX nor the program's code."""
