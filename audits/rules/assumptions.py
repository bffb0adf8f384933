"""What every certificate assumes: conditions that no static proof covers."""

ASSUMPTIONS = (
    "The server is honest but curious: it sends every client the same broadcasts.",
    "The aggregator reveals the sum over the surviving clients and nothing else.",
    "Clients run the certified client program on their own data.",
    "Values of the server are numbers: a NaN of its own making is no leak.",
    "Real arithmetic up to the stated slack; the claim is about the program before compilation.",
    "Compatibility with secure aggregation is not a privacy claim; only bounded, noised sums are.",
)
