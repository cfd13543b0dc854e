from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, sys
from harness.host.streams import keep_streams, native_output_dropped
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
