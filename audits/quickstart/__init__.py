"""Experiments: a configuration in, a certified private run and its evidence out.

`secfad run` reads a TOML file (`configuration`), makes its two computations (`fedavgm`), has them
certified, and runs them round by round (`running`) beside a non-private twin (`baseline`), with an
atomic checkpoint after every round (`privacy.training.checkpoints`). What is left is a folder: the
ledger, the certificates, results, plots and a page (`results`, `plots`, `pages`).

Sources: docs/architecture.md; Rush, Charles, Garrett (JMLR 2024), Fig. 4, for the algorithm.
"""
