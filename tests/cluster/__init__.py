"""Real processes on loopback, driven through the commands that a person types."""
