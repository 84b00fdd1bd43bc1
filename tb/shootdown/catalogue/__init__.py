"""What is known: the historic bugs, the review of the seed patch, and the kernel's own tests, each with its runs."""
