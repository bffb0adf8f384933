"""Programs of JAX: what an equation is, what depends on what, digests."""
