"""The rules of MLPerf Inference as data: rounds, compliance tests, and what is not for submission."""
