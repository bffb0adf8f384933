"""Programs written for other libraries, as federated computations of ours."""
