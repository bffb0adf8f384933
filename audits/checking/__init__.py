"""The checker: frontends, outputs, provenance, evidence and its small verifier."""
