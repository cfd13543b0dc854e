"""From official runs to a submission: the campaign that makes them, packaging and checking."""
