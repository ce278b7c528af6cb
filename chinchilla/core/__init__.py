"""What every other part builds on: published numbers, shapes, units, errors, atomic files, JSON."""
