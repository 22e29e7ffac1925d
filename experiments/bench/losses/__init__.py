"""What objectives on next-token distributions cost, at a vocabulary of 151,936."""
