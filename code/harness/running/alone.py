"""A test outside a campaign, which reserves the place of its result itself."""

from harness.running.outdated import set_aside
from harness.running.places import reserved
from harness.running.run import Ended, run_test
from harness.settings.run import RunSettings


def run_alone(settings: RunSettings) -> Ended:
    """As `run_test`, and sets aside the compliance tests of a result that an official test replaces.

    Raises:
        Busy: another test or campaign writes the same official result.
        ConfigError: an official result already exists, or it cannot be written.
    """
    with reserved(settings.target, settings.tree):
        ended = run_test(settings)
        if not ended.code:
            set_aside(settings)
    return ended
