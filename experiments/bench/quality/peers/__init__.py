"""Terms of the loss that arms of the quality testbed alone use, and peers' losses."""
