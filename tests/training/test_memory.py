import resource
import sys

import pytest
import torch

from tlopt.training import memory


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_taken_again_is_not_cleared_by_the_kernel_again() -> None:
    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(16 << 20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with memory.kept():
        with memory.kept():
            pass
        again = min(faults() for _ in range(8))
    pages = (16 << 20) * 4 / resource.getpagesize()
    assert again < pages / 10
