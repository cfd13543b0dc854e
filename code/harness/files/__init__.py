"""Files: read, written atomically, hashed, downloaded, and found changed."""
