"""Abstract domains of the bounds prover: what is known of one value."""
