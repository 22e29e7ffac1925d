"""The sources of a config's teachers: found by prefix, checked, described."""
