"""Special registers: what a thread knows of its place."""

import numpy as np

NAMES = {
    *(f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"),
    *(f"%lanemask_{which}" for which in ("eq", "le", "lt", "ge", "gt")),
    "%laneid",
}


def special(batch, name):
    """The values of a special register for all lanes of a batch; all have 32 bits."""
    return np.broadcast_to(np.asarray(_values(batch, name)).astype(np.uint32), batch.n_lanes)


def _values(batch, name):
    if name == "%laneid":
        return batch.lane
    if name.startswith("%lanemask_"):
        bit = np.int64(1) << batch.lane
        above, below = 2**32 - 2 * bit, bit - 1
        return {"eq": bit, "lt": below, "le": below | bit, "gt": above, "ge": above | bit}[name[-2:]]
    which, axis = name[1:].split(".")
    i = "xyz".index(axis)
    if which in ("ntid", "nctaid"):
        return (batch.launch.block if which == "ntid" else batch.launch.grid)[i]
    shape = batch.launch.block if which == "tid" else batch.launch.grid
    linear = batch.thread_of_block if which == "tid" else batch.block
    return linear // int(np.prod(shape[:i])) % shape[i]
