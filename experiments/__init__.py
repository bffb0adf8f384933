"""Reproductions of the papers, one command each: `python -m experiments fad-1 [--tiny] [--out DIR]`.

Every experiment is a function from `Options` to an `Outcome`: criteria that hold or do not, the
figures behind them, and curves. `dp-*` are not in the papers: they ask what privacy costs.
`python -m experiments all` runs everything; `report` writes docs/reproductions.md and, from `dp-*`,
docs/findings.md.
"""
