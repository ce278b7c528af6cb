"""Published numbers, model shapes, units, errors, atomic files and JSON: used by all other packages."""
