"""Transfer rules of the checker: the effect of each primitive on labels."""
