"""Models: fetched, built, compressed, verified, and described from their files."""
