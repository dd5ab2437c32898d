"""Between the contracts and the domain; pure, and free of any decision."""
