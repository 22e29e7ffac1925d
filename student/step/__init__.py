"""What one training step reads and adds up."""
