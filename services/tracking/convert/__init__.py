"""Between the contracts and the domain; pure."""
