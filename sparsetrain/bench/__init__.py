"""Measuring: what ours and its rivals take, under the same conditions."""
