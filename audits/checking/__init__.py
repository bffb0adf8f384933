"""The checker: front ends, outputs, provenance, evidence and its small verifier."""
