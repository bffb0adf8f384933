"""Experiments: turn a configuration into a certified private run and its evidence.

`secfad run` reads a TOML file (`configuration`), builds and certifies its two computations
(`fedavgm`, `tasks`), and runs them round by round (`running`) next to a non-private twin
(`baseline`). It writes an atomic checkpoint after every round (`privacy.training.checkpoints`). Its
output is a folder with the ledger, the certificates, results, plots and a page (`results`, `plots`,
`pages`).

Sources: docs/architecture.md; Rush, Charles, Garrett (JMLR 2024), Fig. 4, for the algorithm.
"""
