"""What holds for every test of this repository."""

import gc
import os
import sys

import pytest

# Read when torch is loaded, here and in children: threads that wait for each other sleep. On a busy machine two
# that spin instead cost five times the processor time of one.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

gc.disable()  # until everything is collected
if "PYTEST_XDIST_WORKER" in os.environ:
    # It imports nearly everything anyway: its children fork from a server that has it before any other conftest.
    from tenfold.testing._fork import fork_server

    fork_server()


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Modules and tests stay to the end: nobody looks for garbage in them, neither now nor later."""
    result = yield
    gc.freeze()
    gc.enable()
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """As many torch threads as the session says: a command line with `threads` leaves its own number to later tests.

    Two workers of two threads each on two cores spend most of their time waiting for each other.
    """
    wanted, torch = os.environ.get("OMP_NUM_THREADS", ""), sys.modules.get("torch")
    if torch is not None and wanted.isdigit() and torch.get_num_threads() != int(wanted):
        torch.set_num_threads(int(wanted))
