"""How the fuzz tests run, and the bounds that hold for every example."""

import contextlib
import resource
import time
from collections.abc import Iterator

from hypothesis import HealthCheck, settings

from exporters.errors import DeployError

EXAMPLES, COMMANDS = 100, 20  # of a kind, through functions and through the command line
MOST_S = 10.0  # of processor time
MOST_BYTES = 1 << 30  # more than before

# The same examples on every run, so that a check on one machine says something of another. What
# was found to fail stands beside each test, as an explicit example.
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
fuzz_commands = settings(fuzz, max_examples=COMMANDS)


@contextlib.contextmanager
def only_our_errors() -> Iterator[None]:
    """Success or one of our errors, in one line, within bounds of time and memory."""
    started = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        yield
    except DeployError as err:
        wordless = not str(err).strip()
        assert not wordless
    assert time.process_time() - started < MOST_S
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < MOST_BYTES
