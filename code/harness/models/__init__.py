"""The models that are known by name: fetched, built, compressed, verified, and what their files say of themselves."""
