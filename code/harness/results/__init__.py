"""The results of a test: their paths, the record, the timeline, and readers of finished runs."""
