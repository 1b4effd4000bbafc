"""Order and cleanup: which step follows which, and what happens when one fails."""
