"""The rules of MLPerf Inference as data: rounds, compliance tests, limits, and runs that are not for submission."""
