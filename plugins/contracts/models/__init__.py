"""Contracts of what is about whole models: where they come from, are made of, write."""
