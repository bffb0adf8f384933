"""From a trace to a program in stages: placement, normal form, schedule, costs."""
