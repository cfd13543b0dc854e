"""From official runs to a submission: packaging and checking."""
