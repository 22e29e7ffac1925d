"""Matrix products on a processor: how wide, by which instructions, what it keeps."""
