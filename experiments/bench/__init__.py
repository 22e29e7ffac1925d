"""What the platform costs beside the models, measured against bars."""
