"""The rbees that tests share: each is started once."""

import pytest

from rbee import Rbee


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Starts an rbee under a folder of its own; all of them are stopped at the end."""
    started = []

    def start(name: str, **settings: str) -> Rbee:
        rbee = Rbee(tmp_path_factory.mktemp(name), settings)
        started.append(rbee)
        rbee.up()
        return rbee

    yield start
    for rbee in started:
        rbee.down()


@pytest.fixture(scope="session")
def rbee(start) -> Rbee:
    """The demo model on four slots, open to everybody on this machine."""
    rbee = start("four-slots")
    rbee.load_model(slots=4)
    return rbee


@pytest.fixture(scope="session")
def one_slot(start) -> Rbee:
    """The demo model on one slot, in batch-invariant mode: a greedy answer has one right text."""
    rbee = start("one-slot", RBEE_WORKER__ARGUMENTS="--batch-invariant")
    rbee.load_model(slots=1)
    return rbee


@pytest.fixture
def client(rbee):
    with rbee.client() as client:
        yield client
