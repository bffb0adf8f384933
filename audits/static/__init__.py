"""The static checker: a proof that a JAX program communicates only by broadcast and sum.

`checking` is the entry; `frontends` turns a function into a jaxpr per derivative mode; `interpreter`
walks the jaxpr with one label per value (`labels`) under the transfer rules of `elementwise`,
`structure`, `indexing`, `contraction`, `collectives`, `control` and `iteration`; `bounds` proves how
much one client can change each sum and follows noise and its keys; `verification` re-checks the
evidence independently. Everything that no rule allows is rejected.
"""
