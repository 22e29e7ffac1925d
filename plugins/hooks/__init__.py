"""The hooks of whole models, and examples of every kind that has to do with them."""
