"""What padding costs on short texts, and what each way out of it gives."""
