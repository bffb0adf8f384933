"""Federated algorithms, each a short program of broadcasts and sums.

    fedopt          FedAvg, FedAvgM, FedAdam, FedYogi, FedAdagrad; `local`: FedProx, Per-FedAvg
    scaffold        control variates, with declared client state
    hypergradients  learned server and client learning rates, momentum, client weighting
    aggitd          bilevel optimisation: forward matrix, reverse, shared rounds, FedNest
    baffle          K scalars per round: forward differences or exact directional derivatives
    compression     training in random subspaces: static, time-varying, K subspaces
    schedulers      FedHyper, FATHOM, FedEx: baselines for learned hyperparameters

One small example of each, with a centralised oracle and closed-form costs, is in `tests/algorithms`.

Sources: named in each module.
"""
