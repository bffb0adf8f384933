"""Bounds: the maximum change of each sum by one client, and the scale of the noise.

`proving` walks a program that has passed the communication check a second time, with one `Fact` per
value: an interval (`intervals`), L2 norms over groups of axes (`stability`), relations such as "at
most c over the norm of v" (`relations`), the sums in a server value (`releases`) and the origin of
randomness (`chance`). `judging` turns the facts at each sum (`sum_bounds`), noise (`noise_scales`)
and key (`noise_keys`) into findings.
"""
