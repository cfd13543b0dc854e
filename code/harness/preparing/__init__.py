"""How a test is made ready, on this machine or on nodes, and handed to LoadGen."""
