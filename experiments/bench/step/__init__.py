"""What the platform costs beside the bare models, step by step."""
