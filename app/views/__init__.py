"""One file per page of the menu."""
