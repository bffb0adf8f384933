"""Reproductions of the papers, one command each: `python -m experiments fad-1 [--tiny] [--out DIR]`.

Every experiment is a function from `Options` to an `Outcome`: criteria that hold or do not, the
figures behind them, and curves. `python -m experiments all` runs all of them, `report` writes
docs/reproductions.md from their results. `dp-*` are not in the papers: they ask what privacy costs.
"""
