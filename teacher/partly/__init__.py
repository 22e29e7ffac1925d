"""Teachers that are asked about some texts of a batch, and do not run for others."""
