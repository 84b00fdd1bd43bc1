"""A secondary MMU for FPGAs: TLB, walker, in-flight tracking and an invalidation port that keeps the mm contract."""
