"""Abstract domains of the bounds prover: the facts about one value."""
