"""Gets a test ready: on this machine, or on the nodes of a cluster."""

from harness.preparing.local import prepare
from harness.preparing.prepared import AS_A_RUN, Preparation, Prepared
from harness.settings.run import RunSettings


def get_ready(settings: RunSettings, how: Preparation = AS_A_RUN) -> Prepared:
    """Like `prepare`, on the nodes of a cluster if the settings name one."""
    if settings.cluster is None:
        return prepare(settings, how)
    from harness.preparing.clustered import prepare_nodes  # a run on one machine does not need it

    return prepare_nodes(settings, how)
