"""Transfer rules of the checker: what each primitive does to labels."""
