"""How a package gives on the names of its files, those of today and earlier ones."""
