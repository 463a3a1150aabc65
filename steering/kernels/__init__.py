"""The projections of `steering.slab` and `steering.joint` as compiled loops, for float32 on the CPU.

On a CPU the hundred small tensor operations of the batched form cost more in dispatch than in arithmetic: a tenth of a
decoding step of a small model. A loop in machine code does the same work in microseconds, and may do only what is
needed: a row inside its slabs is read and copied, and candidates are tried one after another until one holds. Sums are
taken in float64. The tensor form remains the definition, and serves every other dtype and device.
"""
