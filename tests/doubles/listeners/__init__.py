"""Methods that learn from stored teacher outputs; they train nothing."""
