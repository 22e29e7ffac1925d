"""What is measured of a run, and what its phases write while they train."""
