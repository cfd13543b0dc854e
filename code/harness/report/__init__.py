"""Reports on finished runs: LoadGen's logs, the records and the timelines as a page, a table or JSON."""
