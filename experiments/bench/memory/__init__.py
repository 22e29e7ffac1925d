"""Whether `mtkd estimate --plan` says what training holds, on a CPU."""
