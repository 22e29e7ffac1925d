"""A testbed of pretrained teachers, and of a text that is soon known by heart."""
