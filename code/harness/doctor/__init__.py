"""What stops a run on this machine or makes it slow; the checks need nothing but Python's own library."""
