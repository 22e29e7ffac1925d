"""What every package needs of the machine and of libraries."""
