"""The latent that teachers and student share, and what holds it together."""
