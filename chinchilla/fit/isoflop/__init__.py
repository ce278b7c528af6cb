"""Approach 2 (section 3.2): IsoFLOP profiles."""
