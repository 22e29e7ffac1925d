"""What two models' predictions have in common, whatever their tokenizers."""
