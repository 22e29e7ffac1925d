"""Many runs of one config: which there are, who trains which, and what came of them."""
