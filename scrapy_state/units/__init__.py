"""Units: which requests and items belong together, and how far all of them are done."""
