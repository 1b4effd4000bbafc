"""Topics that people subscribe to: what was accepted is kept, and delivered to each subscriber."""
