from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, sys
from harness.terminal.streams import keep_streams, native_output_dropped
keep_streams()
with native_output_dropped({dropped}):
    os.system("echo native; echo native >&2")
    print("python", flush=True)
    print("python", file=sys.stderr, flush=True)
os.write(1, b"after\\n")
print("python")
os.write(2, b"after\\n")
"""


def printed(dropped: bool) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-u", "-c", PROGRAM.format(dropped=dropped)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_what_native_code_prints_is_dropped_and_what_python_prints_is_kept():
    assert printed(True) == ("python\nafter\npython\n", "python\nafter\n")
    assert printed(False) == ("native\npython\nafter\npython\n", "native\npython\nafter\n")


LOGGER = """
import logging, os, sys
from harness.terminal.streams import keep_streams, native_output_dropped
keep_streams()
with native_output_dropped():
    handler = logging.StreamHandler()
with open(sys.argv[1], "w") as log:
    logging.getLogger().addHandler(handler)
    logging.warning("a warning of an engine")
"""


def test_a_logger_that_is_set_up_in_the_block_never_writes_to_a_file_that_is_opened_later(tmp_path):
    log = tmp_path / "mlperf_log_detail.txt"
    done = subprocess.run([sys.executable, "-c", LOGGER, log], capture_output=True, text=True)
    assert (log.read_text(), done.stderr) == ("", "a warning of an engine\n")
