"""MLPerf Inference harness for CPUs: drives LoadGen, schedules batches, feeds engines."""

import os

__version__ = "0.2.0"
TOOL = "mlperf-cpu-harness"
"""The name in the metadata of the files that the harness makes."""

# ONNX Runtime is imported in several places, and from 1.32 on keeps usage data in the home folder from its import on.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
