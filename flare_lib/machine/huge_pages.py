"""Large tensors on huge pages (Linux): a net's feature maps come and go, and with each of them its pages.

For a map of 250 MB the system hands out, clears and takes back 60,000 pages of 4 KiB, or 120 of 2 MiB. NumPy asks for
the latter by itself, torch on request. Systems on which nobody may ask for them, or everybody gets them, behave as
before.

Reference: https://docs.kernel.org/admin-guide/mm/transhuge.html; PyTorch, c10/core/impl/alloc_cpu.cpp
"""

import os

REQUEST = "THP_MEM_ALLOC_ENABLE"


def ask_for_huge_pages() -> None:
    """Have torch ask for huge pages, in this process, before it makes its first tensor, and in those it starts.

    What the user has set stays: THP_MEM_ALLOC_ENABLE=0 turns it off.
    """
    os.environ.setdefault(REQUEST, "1")
