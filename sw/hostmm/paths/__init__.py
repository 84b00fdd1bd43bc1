"""The mm paths, one module a kernel function, each written once: what a policy changes, the path does not know."""
