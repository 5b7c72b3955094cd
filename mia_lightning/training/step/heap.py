"""The heap of the process, from step to step."""

import torch


def keep_freed_memory() -> None:
    """Make the GNU C library keep freed blocks of up to 32 MB for the next step; elsewhere nothing happens.

    The library gives a freed block back to the system if it is larger than any block freed before (mallopt(3), "dynamic
    mmap threshold"), so that the gradients of each step would be mapped anew, page by page. Freeing one large block,
    which is never touched, raises the threshold.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)
