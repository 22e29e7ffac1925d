"""From names in a config to models, texts and modules that teach."""
