"""Two processes that train together, told what torchrun would tell them; the libraries are loaded only once.

``python two_processes.py ARGUMENTS`` runs tlopt with these arguments in both.
"""

import os
import socket
import sys
import traceback


def run_in_two(work):
    """Call a function in two new processes; return 0 if both ended well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return max([_ended(child) for child in [_started(work, told, rank) for rank in range(2)]])


def run_in_one(work):
    """Call a function in a new process that is told nothing; return 0 if it ended well."""
    return _ended(_started(work, {}, 0))


def _started(work, told, rank):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ.update(told, RANK=str(rank), LOCAL_RANK=str(rank))
        work()
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:  # noqa: BLE001 - whatever it is, the other process waits for this one
        traceback.print_exc()
    finally:
        os._exit(code)


def _ended(child):
    return abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    import torch

    from tlopt.cli import main
    from tlopt.sources import timm

    assert timm
    torch.set_num_threads(1)
    sys.exit(run_in_two(lambda: main(sys.argv[1:])))
