"""The facts about this machine that `harness cluster check` compares between machines."""

import socket

from harness.files.digest import sha256_of
from harness.files.disk import readable
from harness.host import machine
from harness.machines.check import Facts
from harness.paths import MODELS_DIR
from harness.settings.identity import code_digest

INSTALLED = "harness.machines.installed:installed"


@readable()
def installed() -> Facts:
    """The facts about this machine.

    Raises:
        ConfigError: a model cannot be read.
    """
    about = machine.describe()
    packages = {name: machine.package_version(name) for name in (*machine.PACKAGES, "ray")}
    versions = {name: version for name, version in packages.items() if version}
    return Facts(
        socket.gethostname(),
        about.cpu,
        machine.core_count(),
        code_digest(),
        {"python": about.python, **versions},
        {path.name: sha256_of(path) for path in sorted(MODELS_DIR.glob("*.onnx"))},
    )
