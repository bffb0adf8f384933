"""Loops of private evaluations: training, hypergradients, checkpoints."""
