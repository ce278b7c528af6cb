"""Approach 1 (section 3.1): the lower envelope of training curves."""
