"""Reports of finished runs: what LoadGen's logs, the records and the timelines tell, as a page, a table or JSON."""
