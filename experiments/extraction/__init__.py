"""Run teachers once, over all the text of a config, onto disk."""
