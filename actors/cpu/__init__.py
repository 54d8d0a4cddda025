"""What only workers on a CPU need."""
