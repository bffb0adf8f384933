"""One private evaluation: cohort, secure sum, noise, charge."""
