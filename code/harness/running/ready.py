"""Gets a test ready: on this machine, or on the nodes of a cluster."""

from harness.host.supervise import Beat
from harness.running.prepare import Prepared, no_beat, prepare
from harness.running.shared import Shared
from harness.settings.run import RunSettings


def get_ready(
    settings: RunSettings,
    beat: Beat = no_beat,
    quiet: bool = False,
    shared: Shared | None = None,
    compile_seconds: float | None = None,
    choose_streams: bool = True,
) -> Prepared:
    """As `prepare`, on the nodes of a cluster if the settings name one."""
    if settings.cluster is None:
        return prepare(settings, beat, quiet, shared, compile_seconds, choose_streams)
    from harness.running.clustered import prepare_nodes  # a run on one machine does not need it

    return prepare_nodes(settings, beat, quiet, compile_seconds, choose_streams)
