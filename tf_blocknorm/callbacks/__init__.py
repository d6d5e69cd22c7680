"""Callbacks: step sizes that adapt, and views of what happens in the blocks."""
