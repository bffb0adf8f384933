"""Bounds: how much one client can change each sum, and whether the noise fits.

`proving` walks a program that has passed the communication check a second time, with one `Fact` per
value: an interval (`intervals`), L2 norms over groups of axes (`stability`), relations such as "at
most c over the norm of v" (`relations`), the sums that a server value is made of (`releases`) and
where randomness comes from (`chance`). `judging` turns what holds
at each sum (`sum_bounds`), noise (`noise_scales`) and key (`noise_keys`) into findings.
"""
