"""Servers that call us: who may, what waits for them, and what they are told at their boot."""
