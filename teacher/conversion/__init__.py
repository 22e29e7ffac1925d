"""From packages and from formats that are not read to folders that are."""
