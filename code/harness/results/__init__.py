"""The results of a test: their places, the record, the timeline, and reading finished runs back."""
