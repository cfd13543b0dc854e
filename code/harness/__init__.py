"""MLPerf Inference harness for CPUs: drives LoadGen, schedules batches, feeds engines."""

__version__ = "0.1.0"
