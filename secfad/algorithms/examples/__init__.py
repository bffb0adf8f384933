"""Small examples of the algorithms, each with its oracle; `secfad.algorithms.table` lists them."""
