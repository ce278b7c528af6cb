"""Approach 3 (section 3.3): a parametric loss law."""
