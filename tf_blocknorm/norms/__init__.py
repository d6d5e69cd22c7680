"""What "the size of a gradient" means.

A norm here is a pure function of tensors of any rank. It treats the tensors it is given as one long
vector (so that a kernel and its bias can be one block), or, with `axis`, measures along these axes.

| name               | size of `g` with `n` entries        | a unit gradient has …                 |
|--------------------|-------------------------------------|---------------------------------------|
| `"l1"`             | sum of `abs(g)`                     | entries that add up to 1              |
| `"l2"`             | square root of the sum of `g**2`    | length 1; entries about `1 / sqrt(n)` |
| `"rms"`, `"avg_l2"`| square root of the mean of `g**2`   | entries about 1, whatever `n`         |
| `"avg_l1"`         | mean of `abs(g)`                    | entries about 1, whatever `n`         |
| `"max"`            | largest `abs(g)`                    | a largest entry of exactly 1          |
| `"min_max"`        | `(abs(max(g)) + abs(min(g))) / 2`   | extremes about 1                      |
| `"std"`            | root of the mean of `(g - mean)**2` | entries that scatter by 1             |

**Exactness.** Dividing by a norm should undo any factor in front of the gradient. The usual way, `g
/ (norm + epsilon)` in one pass, does so only between about 1e-19 and 1e19 in float32: outside, the
squares underflow or overflow. Here a power-of-two factor, which is free of rounding, brings a block
back into the range where squares are safe. Hence `g` and `g * 2**k` give the same unit gradient to
the last bit for every `k` that keeps the entries of `g` normal numbers (float32: 1.2e-38 … 3.4e38;
float64: 2.3e-308 … 1.8e308), with no epsilon. The second look costs nothing in a usual step: one
check for all blocks decides whether it is needed. Subnormal entries (below 1.2e-38 in float32)
count as zero on processors and compilers that flush them, as TensorFlow does on CPUs.

**Special values.** A zero block stays zero. A block with a NaN or an infinity becomes NaN as a
whole: a broken gradient never turns into a step that looks healthy. float16 and bfloat16 are
measured and divided in float32; float64 stays float64.
"""

from tf_blocknorm.norms.block import Block, join, of_ones, split
from tf_blocknorm.norms.exact import norm, normalize, sizes, unit, unmultiplied
from tf_blocknorm.norms.modes import inside_xla
from tf_blocknorm.norms.products import dots, sum_of_squares
from tf_blocknorm.norms.sizes import WITHOUT_ZEROS, get, names

__all__ = [
    "WITHOUT_ZEROS",
    "Block",
    "dots",
    "get",
    "inside_xla",
    "join",
    "names",
    "norm",
    "normalize",
    "of_ones",
    "sizes",
    "split",
    "sum_of_squares",
    "unit",
    "unmultiplied",
]
